/** Qwen2 and Qwen2.5, the DeepSeek-R1 distillations onto Qwen: transformers' `Qwen2Config`. Llama with biases on q, k, v. */
import type { ConfigReader } from '../config.ts';
import type { DecoderOptions } from '../decoder.ts';
import { llama } from './llama.ts';
import { qwenWindow } from './sliding.ts';

export function qwen2(config: ConfigReader): DecoderOptions {
  return { ...llama(config), qkv_bias: true, output_bias: false, mlp_bias: false, ...qwenWindow(config) };
}
