/** Qwen3: transformers' `Qwen3Config`. Llama with a norm over each head of q and k, and heads of 128 unless said. */
import type { ConfigReader } from '../config.ts';
import type { DecoderOptions } from '../decoder.ts';
import { QWEN3_NAMES } from '../names.ts';
import { llama } from './llama.ts';
import { qwenWindow } from './sliding.ts';

export function qwen3(config: ConfigReader): DecoderOptions {
  return {
    ...llama(config, { head_dim: 128 }),
    mlp_bias: false,
    head_norm: true,
    names: QWEN3_NAMES,
    ...qwenWindow(config),
  };
}
