/** Mistral 7B and its kin: transformers' `MistralConfig`. Llama without biases, with a sliding window over all layers. */
import type { ConfigReader } from '../config.ts';
import type { DecoderOptions } from '../decoder.ts';
import { llama } from './llama.ts';

export function mistral(config: ConfigReader): DecoderOptions {
  config.only('attention_bias', false);
  config.only('mlp_bias', false);
  const shared = llama(config);
  // absent is 4096 there; null is none
  const window = config.raw.sliding_window === null ? undefined : config.count('sliding_window', 4096);
  const types = config.raw.layer_types;
  const all = window === undefined ? 'full_attention' : 'sliding_attention';
  if (types != null && !(Array.isArray(types) && types.every((type) => type === all))) {
    throw config.wrong('layer_types', types, `${JSON.stringify(all)} in every layer, as sliding_window has it`);
  }
  return {
    ...shared,
    max_position_embeddings: config.count('max_position_embeddings', 131072),
    sliding_window: window,
  };
}
