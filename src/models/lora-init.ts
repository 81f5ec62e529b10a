/**
 * What a new adapter starts from, as PEFT's `reset_lora_parameters` (tuners/lora/layer.py), with numbers that are a pure
 * function of seed and tensor:
 *   true        A ~ U(±1/√in) (kaiming_uniform, a = √5), B = 0: the model is unchanged
 *   "gaussian"  A ~ N(0, 1/r), B = 0
 *   false       A as for true, B ~ U(±1/√r) (torch's default of a linear layer)
 */
import type { Shape } from '../engine/graph/types.ts';
import { philox } from '../engine/ops/philox.ts';
import type { AdapterTensor } from '../formats/peft.ts';
import type { DecoderOptions } from './decoder.ts';
import type { LoraSettings } from './lora.ts';
import { adapterParameters } from './model.ts';

export type LoraInit = boolean | 'gaussian';

/** Philox stream of new adapters; a tensor's number is the third word of its counters. */
const STREAM = 0x4c4f_5241;

export function newAdapter(
  options: DecoderOptions,
  settings: LoraSettings,
  init: LoraInit,
  seed: number,
): Map<string, AdapterTensor> {
  const tensors = new Map<string, AdapterTensor>();
  let number = 0;
  for (const [name, symbolic] of adapterParameters(options, settings)) {
    const shape = symbolic as readonly [number, number];
    const isA = name.endsWith('.lora_A.weight');
    tensors.set(name, { shape, data: isA ? startOfA(shape, init, seed, number) : startOfB(shape, init, seed, number) });
    number++;
  }
  return tensors;
}

function startOfA(shape: Shape, init: LoraInit, seed: number, tensor: number): Float32Array<ArrayBuffer> {
  const [r, inputs] = shape as readonly [number, number];
  if (init === 'gaussian') return normal(r * inputs, 1 / r, seed, tensor);
  return uniform(r * inputs, 1 / Math.sqrt(inputs), seed, tensor);
}

function startOfB(shape: Shape, init: LoraInit, seed: number, tensor: number): Float32Array<ArrayBuffer> {
  const [outputs, r] = shape as readonly [number, number];
  return init === false ? uniform(outputs * r, 1 / Math.sqrt(r), seed, tensor) : new Float32Array(outputs * r);
}

/** 24 bits each, as torch draws float32. */
export function uniform(count: number, bound: number, seed: number, tensor: number): Float32Array<ArrayBuffer> {
  const values = new Float32Array(count);
  for (let i = 0; i < count; i += 4) {
    const words = philox([i / 4, 0, tensor, STREAM], [seed, 0]);
    for (let j = 0; j < 4 && i + j < count; j++) values[i + j] = bound * ((words[j]! >>> 8) / 2 ** 23 - 1);
  }
  return values;
}

/** Box and Muller 1958: two uniforms make two normals. */
export function normal(count: number, deviation: number, seed: number, tensor: number): Float32Array<ArrayBuffer> {
  const values = new Float32Array(count);
  for (let i = 0; i < count; i += 4) {
    const words = philox([i / 4, 0, tensor, STREAM], [seed, 0]);
    for (let j = 0; j < 4; j += 2) {
      const radius = deviation * Math.sqrt(-2 * Math.log((words[j]! + 1) / 2 ** 32));
      const angle = (2 * Math.PI * words[j + 1]!) / 2 ** 32;
      if (i + j < count) values[i + j] = radius * Math.cos(angle);
      if (i + j + 1 < count) values[i + j + 1] = radius * Math.sin(angle);
    }
  }
  return values;
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
