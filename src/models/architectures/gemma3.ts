/**
 * Gemma 3's text models: transformers' `Gemma3TextConfig`. A norm over each head of q and k; five layers with a window and
 * a rotary of their own to one that sees all. Its logits may be capped. Its scores are not, whatever the config says:
 * transformers' Gemma 3 passes no cap to attention, so a cap is refused instead of being ignored or applied.
 */
import { ConfigReader, type RawConfig } from '../config.ts';
import type { DecoderOptions } from '../decoder.ts';
import { GEMMA3_NAMES } from '../names.ts';
import { readRotary, type RotaryOptions } from '../rotary.ts';
import { gemma, softcap } from './gemma.ts';

export function gemma3(config: ConfigReader): DecoderOptions {
  config.only('attn_logit_softcapping');
  const pattern = config.count('sliding_window_pattern', config.count('_sliding_window_pattern', 6));
  const options = gemma(config, {
    vocab_size: 262208,
    max_position_embeddings: 131072,
    slides: (layer) => (layer + 1) % pattern !== 0,
  });
  return {
    ...options,
    head_norm: true,
    final_logit_softcapping: softcap(config, 'final_logit_softcapping'),
    names: GEMMA3_NAMES,
    ...rotaries(config, options.head_dim),
  };
}

/** `rope_parameters` by kind of layer, or `rope_theta`, `rope_scaling` and `rope_local_base_freq`. */
function rotaries(config: ConfigReader, headDim: number): { rotary: RotaryOptions; sliding_rotary: RotaryOptions } {
  const byKind = config.object('rope_parameters') ?? {};
  const read = (kind: string, theta: number, more: RawConfig = {}): RotaryOptions => {
    const parameters = { ...((byKind[kind] ?? {}) as RawConfig), ...more };
    return readRotary(config, headDim, { theta, parameters, place: `rope_parameters.${kind}` });
  };
  for (const kind of Object.keys(byKind)) {
    if (kind !== 'full_attention' && kind !== 'sliding_attention') {
      throw config.wrong('rope_parameters', kind, 'full_attention and sliding_attention');
    }
  }
  return {
    rotary: read('full_attention', config.positive('rope_theta', 1e6), config.object('rope_scaling')),
    sliding_rotary: read('sliding_attention', config.positive('rope_local_base_freq', 1e4)),
  };
}

/** `gemma3` holds a picture reader and, under `text_config`, a text model that lacks what the whole says of tokens. */
export function gemmaText(raw: RawConfig, file: string): RawConfig {
  const text = new ConfigReader(raw, file).object('text_config') ?? {};
  const tokens = ['bos_token_id', 'eos_token_id', 'pad_token_id', 'tie_word_embeddings', 'initializer_range'];
  const given = tokens.filter((field) => raw[field] !== undefined).map((field) => [field, raw[field]]);
  return {
    architectures: ['Gemma3ForCausalLM'],
    ...Object.fromEntries(given),
    ...text,
    model_type: 'gemma3_text',
  };
}
