/**
 * Gemma 3's text models: transformers' `Gemma3TextConfig`. Norms that lie as w − 1, before and after attention and MLP and
 * over each head of q and k; embeddings times √hidden; a GELU gate; five layers with a window and a rotary of their own to
 * one that sees all. Soft caps, which no Gemma 3 has, are refused.
 */
import { ConfigReader, type RawConfig } from '../config.ts';
import type { DecoderOptions } from '../decoder.ts';
import { GEMMA3_NAMES } from '../names.ts';
import { readRotary, type RotaryOptions } from '../rotary.ts';
import { activationOf } from './activation.ts';
import { slidingLayers } from './sliding.ts';

export function gemma3(config: ConfigReader): DecoderOptions {
  config.only('attn_logit_softcapping');
  config.only('final_logit_softcapping');
  config.only('use_bidirectional_attention', false);
  const hidden = config.count('hidden_size', 2304);
  const head_dim = config.count('head_dim', 256);
  const bias = config.flag('attention_bias', false);
  const pattern = config.count('sliding_window_pattern', config.count('_sliding_window_pattern', 6));
  const scale = 1 / Math.sqrt(config.positive('query_pre_attn_scalar', 256));
  return {
    vocab_size: config.count('vocab_size', 262208),
    hidden_size: hidden,
    num_hidden_layers: config.count('num_hidden_layers'),
    num_attention_heads: config.count('num_attention_heads', 8),
    num_key_value_heads: config.count('num_key_value_heads', 4),
    head_dim,
    intermediate_size: config.count('intermediate_size', 9216),
    max_position_embeddings: config.count('max_position_embeddings', 131072),
    norm_eps: config.positive('rms_norm_eps', 1e-6),
    norm_offset: 1,
    head_norm: true,
    embedding_scale: Math.sqrt(hidden),
    attention_scale: () => scale,
    activation: activationOf(config, 'hidden_activation', 'gelu_pytorch_tanh'),
    tie_word_embeddings: config.flag('tie_word_embeddings', true),
    qkv_bias: bias,
    output_bias: bias,
    mlp_bias: false,
    sliding_window: config.count('sliding_window', 4096),
    sliding_layers: slidingLayers(config, (layer) => (layer + 1) % pattern !== 0),
    names: GEMMA3_NAMES,
    ...rotaries(config, head_dim),
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
