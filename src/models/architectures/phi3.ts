/**
 * Phi-3 and Phi-3.5 mini and medium, Phi-4: transformers' `Phi3Config`. Llama with one projection for q, k and v and one for
 * gate and up, rotary over a part of each head where asked, and longrope for the long-context ones. Dropouts of a config
 * are not applied.
 */
import type { ConfigReader } from '../config.ts';
import type { DecoderOptions } from '../decoder.ts';
import { PHI3_NAMES } from '../names.ts';
import { llama } from './llama.ts';

export function phi3(config: ConfigReader): DecoderOptions {
  // older files name longrope by what it was first called
  const aliases = { su: 'longrope', yarn: 'longrope' };
  const shared = llama(config, { rotary: { aliases, original: 4096, partial: true } });
  const { kind } = shared.rotary!.scaling;
  if (kind !== 'default' && kind !== 'longrope') throw config.wrong('rope_scaling', kind, 'none, or longrope');
  return {
    ...shared,
    max_position_embeddings: config.count('max_position_embeddings', 4096),
    norm_eps: config.positive('rms_norm_eps', 1e-5),
    qkv_bias: false,
    output_bias: false,
    mlp_bias: false,
    sliding_window: config.raw.sliding_window == null ? undefined : config.count('sliding_window'),
    names: PHI3_NAMES,
  };
}
