/**
 * What a new adapter starts from, as PEFT's `reset_lora_parameters` (tuners/lora/layer.py), with numbers that are a pure
 * function of seed and name:
 *   true        A ~ U(±1/√in) (kaiming_uniform, a = √5), B = 0: the model is unchanged
 *   "gaussian"  A ~ N(0, 1/r²), B = 0
 *   false       A as for true, B ~ U(±1/√r) (torch's default of a linear layer)
 */
import type { AdapterTensor } from '../formats/peft.ts';
import type { DecoderOptions } from './decoder.ts';
import { initialLora, initialWeight } from './initialize.ts';
import type { LoraSettings } from './lora.ts';
import { adapterParameters } from './model.ts';

export type LoraInit = boolean | 'gaussian';

export function newAdapter(
  options: DecoderOptions,
  settings: LoraSettings,
  init: LoraInit,
  seed: number,
): Map<string, AdapterTensor> {
  const tensors = new Map<string, AdapterTensor>();
  for (const [name, symbolic] of adapterParameters(options, settings)) {
    const shape = symbolic as readonly [number, number];
    tensors.set(name, { shape, data: start(name, shape, init, seed) });
  }
  return tensors;
}

function start(
  name: string,
  shape: readonly [number, number],
  init: LoraInit,
  seed: number,
): Float32Array<ArrayBuffer> {
  const isA = name.endsWith('.lora_A.weight');
  if (isA && init === 'gaussian') return initialWeight(name, shape, seed, 1 / shape[0]);
  // The rule for A, with r in place of in, is torch's default for B: both are 1/√columns.
  if (!isA && init === false) return initialLora(name.replace('.lora_B.', '.lora_A.of_B.'), shape, seed);
  return initialLora(name, shape, seed);
}

/** PEFT's choice of target modules where a config names none (utils/constants.py), by model_type. */
const DEFAULT_TARGETS: Readonly<Record<string, readonly string[]>> = {
  llama: ['q_proj', 'v_proj'],
  mistral: ['q_proj', 'v_proj'],
  qwen2: ['q_proj', 'v_proj'],
  qwen3: ['q_proj', 'v_proj'],
  gemma3_text: ['q_proj', 'v_proj'],
  phi3: ['qkv_proj'],
  gpt2: ['c_attn'],
};

export const defaultTargets = (model_type: unknown): readonly string[] | undefined =>
  typeof model_type === 'string' ? DEFAULT_TARGETS[model_type] : undefined;
