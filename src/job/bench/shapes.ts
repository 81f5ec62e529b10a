/** The shapes that several suites measure: matrix products, and SmolLM2-135M with weights of noise. */
import type { Graph } from '../../engine/graph/graph.ts';
import { sizeOf, type Value } from '../../engine/graph/types.ts';
import { matmul } from '../../engine/ops/index.ts';
import type { Device, DeviceTensor } from '../../engine/run/device.ts';
import type { DecoderOptions } from '../../models/decoder.ts';
import { pack } from '../../formats/pack-weights.ts';
import { gpt2 } from '../../models/architectures/gpt2.ts';
import type { ModelOptions } from '../../models/architectures/index.ts';
import { ConfigReader } from '../../models/config.ts';
import { baseParameters } from '../../models/model.ts';
import { noise } from './measure.ts';

/** How the operands of a product are stored: T transposed, N not. */
export const LAYOUTS = ['NT', 'NN', 'TN'] as const;
export type Layout = (typeof LAYOUTS)[number];

/** A [M, K] · B [K, N], each stored as the layout says. */
export const product =
  (M: number, K: number, N: number, layout: Layout) =>
  (graph: Graph): Value[] => {
    const transA = layout === 'TN';
    const transB = layout === 'NT';
    const a = graph.input('a', transA ? [K, M] : [M, K]);
    const b = graph.input('b', transB ? [N, K] : [K, N]);
    return [matmul(a, b, { transA, transB })];
  };

/** SmolLM2-135M's config.json. */
export const SMOLLM2: DecoderOptions = {
  vocab_size: 49152,
  hidden_size: 576,
  num_hidden_layers: 30,
  num_attention_heads: 9,
  num_key_value_heads: 3,
  head_dim: 64,
  intermediate_size: 1536,
  max_position_embeddings: 8192,
  norm_eps: 1e-5,
  rotary: { theta: 100000, dims: 64, scaling: { kind: 'default' } },
  activation: 'silu',
  tie_word_embeddings: true,
  qkv_bias: false,
  output_bias: false,
  mlp_bias: false,
};

/**
 * A sixth of SmolLM2-135M for devices without a GPU: layers of the same shape, and as few words as keep the head's share of
 * the work, so that ratios stay what they are for the whole.
 */
export const SMOLLM2_SIXTH: DecoderOptions = { ...SMOLLM2, num_hidden_layers: 5, vocab_size: 8192 };

/** A GPT-2 as small as pages train from nothing. */
export const GPT: DecoderOptions = gpt2(
  new ConfigReader({ vocab_size: 2000, n_embd: 128, n_layer: 4, n_head: 4, n_positions: 128 }, 'config.json'),
);

export async function randomWeights(
  device: Device,
  options: ModelOptions,
  place?: (name: string, shape: readonly (number | string)[]) => DeviceTensor | undefined,
): Promise<Map<string, DeviceTensor>> {
  const tensors = new Map<string, DeviceTensor>();
  for (const [name, shape] of baseParameters(options)) {
    const data = shape.length === 1 ? new Float32Array(sizeOf(shape)).fill(1) : noise(sizeOf(shape), 0.03);
    const trained = place?.(name, shape);
    if (trained) {
      device.write(trained, data);
      continue;
    }
    const dtype = options.held?.get(name);
    const values = dtype ? pack(dtype, data) : data;
    tensors.set(name, await device.guarded(() => device.tensor({ shape, dtype: dtype ?? 'f32' }, values)));
  }
  return tensors;
}
