/**
 * A smaller model of the same kind, as the recipe's `student.compress` asks: fewer layers, narrower hidden or MLP sizes,
 * fewer heads. What is kept is copied from the larger one's weights, tensor by tensor as it is read: layers and channels
 * from the first, the last, or evenly spaced; or it starts from random weights.
 */
import type { Shape } from '../engine/graph/types.ts';
import { InputError } from '../formats/input-error.ts';
import type { TensorFile, TensorInfo } from '../formats/tensor-file.ts';
import type { Compress } from '../recipe/schema.ts';
import { readArchitecture } from './architectures/index.ts';
import type { RawConfig } from './config.ts';
import type { DecoderOptions } from './decoder.ts';
import { normal } from './lora-init.ts';
import { baseParameters, type Model } from './model.ts';

type Axis = 'vocab' | 'hidden' | 'intermediate' | 'heads' | 'kv_heads';

/** What the dimensions of a weight are, by the last parts of its name. */
const AXES: readonly (readonly [name: RegExp, axes: readonly Axis[]])[] = [
  [/(?:embed_tokens|lm_head)\.weight$/, ['vocab', 'hidden']],
  [/\.q_proj\.(?:weight|bias)$/, ['heads', 'hidden']],
  [/\.[kv]_proj\.(?:weight|bias)$/, ['kv_heads', 'hidden']],
  [/\.o_proj\.(?:weight|bias)$/, ['hidden', 'heads']],
  [/\.(?:gate|up)_proj\.(?:weight|bias)$/, ['intermediate', 'hidden']],
  [/\.down_proj\.(?:weight|bias)$/, ['hidden', 'intermediate']],
  [/norm\.weight$/, ['hidden']],
];

/** @param place of the recipe, for errors */
export function compressModel(model: Model, wanted: Compress, seed: number, place: string): Model {
  const layers = keptLayers(model.options.num_hidden_layers, wanted, place);
  const config = smallerConfig(model, wanted, layers.length, place);
  const options = readArchitecture(config, place);
  const parameters = baseParameters(options);
  const weights =
    wanted.init === 'scratch' ? randomWeights(parameters, config, seed) : cutWeights(model, options, layers, wanted);
  return { ...model, config, options, parameters, weights };
}

function keptLayers(count: number, wanted: Compress, place: string): number[] {
  const { layers, num_hidden_layers: keep = layers?.length ?? count } = wanted;
  const beyond = layers?.find((layer) => layer >= count);
  if (beyond !== undefined) {
    throw new InputError(place, 'layers', `names layer ${beyond}`, `0 to ${count - 1}: the model has ${count} layers`);
  }
  if (layers) return [...layers];
  if (keep > count && wanted.init !== 'scratch') {
    throw new InputError(place, 'num_hidden_layers', `is ${keep}`, `at most the model's ${count}, or init "scratch"`);
  }
  return wanted.init === 'scratch' ? Array.from({ length: keep }, (_, i) => i) : chosen(count, keep, wanted.init);
}

/** Which of `count` things stay, in order. */
function chosen(count: number, keep: number, how: Compress['init']): number[] {
  const all = Array.from({ length: keep }, (_, i) => i);
  if (how === 'first' || keep === count) return all;
  if (how === 'last') return all.map((i) => count - keep + i);
  return keep === 1 ? [0] : all.map((i) => Math.round((i * (count - 1)) / (keep - 1)));
}

function smallerConfig({ config, options }: Model, wanted: Compress, layers: number, place: string): RawConfig {
  const sizes = ['hidden_size', 'intermediate_size', 'num_attention_heads', 'num_key_value_heads'] as const;
  const change: Record<string, number> = { num_hidden_layers: layers };
  for (const size of sizes) {
    const value = wanted[size];
    if (value === undefined) continue;
    if (value > options[size] && wanted.init !== 'scratch') {
      throw new InputError(place, size, `is ${value}`, `at most the model's ${options[size]}, or init "scratch"`);
    }
    change[size] = value;
  }
  // Fewer heads or a narrower hidden size leave each head as wide as it was.
  const explicit = wanted.hidden_size !== undefined || wanted.num_attention_heads !== undefined;
  return { ...config, ...change, ...(explicit && { head_dim: options.head_dim }) };
}

function cutWeights(model: Model, options: DecoderOptions, layers: readonly number[], wanted: Compress): TensorFile {
  const kept: Record<Axis, number[] | undefined> = {
    vocab: undefined,
    hidden: pick(model.options.hidden_size, options.hidden_size, wanted.init),
    intermediate: pick(model.options.intermediate_size, options.intermediate_size, wanted.init),
    heads: pick(model.options.num_attention_heads, options.num_attention_heads, wanted.init, options.head_dim),
    kv_heads: pick(model.options.num_key_value_heads, options.num_key_value_heads, wanted.init, options.head_dim),
  };
  const source = (name: string): string =>
    name.replace(/\.layers\.(\d+)\./, (_, layer: string) => `.layers.${layers[Number(layer)]!}.`);
  return fileOf(model.weights.name, baseParameters(options), async (name) => {
    const data = await model.weights.readF32(source(name));
    const shape = model.parameters.get(source(name)) as readonly number[];
    const axes = AXES.find(([pattern]) => pattern.test(name))?.[1] ?? [];
    return select(
      data,
      shape,
      shape.map((_, i) => (axes[i] === undefined ? undefined : kept[axes[i]])),
    );
  });
}

/** Indices that stay along an axis made of blocks; undefined: all do. */
function pick(count: number, keep: number, how: Compress['init'], block = 1): number[] | undefined {
  if (keep === count) return undefined;
  return chosen(count, keep, how).flatMap((n) => Array.from({ length: block }, (_, i) => n * block + i));
}

function select(
  data: Float32Array<ArrayBuffer>,
  shape: readonly number[],
  kept: readonly (readonly number[] | undefined)[],
): Float32Array<ArrayBuffer> {
  if (kept.every((indices) => indices === undefined)) return data;
  const [rows, columns = 1] = shape as readonly [number, number?];
  const rowsKept = kept[0] ?? Array.from({ length: rows }, (_, i) => i);
  const columnsKept = kept[1] ?? Array.from({ length: columns }, (_, i) => i);
  const result = new Float32Array(rowsKept.length * columnsKept.length);
  let at = 0;
  for (const row of rowsKept) for (const column of columnsKept) result[at++] = data[row * columns + column]!;
  return result;
}

/** As transformers' `_init_weights`: normal matrices, norms of one, biases of zero. */
function randomWeights(parameters: ReadonlyMap<string, Shape>, config: RawConfig, seed: number): TensorFile {
  const range = typeof config['initializer_range'] === 'number' ? config['initializer_range'] : 0.02;
  const numbers = new Map([...parameters.keys()].map((name, i) => [name, i]));
  return fileOf('new weights', parameters, async (name) => {
    const shape = parameters.get(name) as readonly number[];
    const size = shape.reduce((product, dim) => product * dim, 1);
    if (name.endsWith('norm.weight')) return new Float32Array(size).fill(1);
    return name.endsWith('.bias') ? new Float32Array(size) : normal(size, range, seed, numbers.get(name)!);
  });
}

function fileOf(
  name: string,
  parameters: ReadonlyMap<string, Shape>,
  readF32: (name: string) => Promise<Float32Array<ArrayBuffer>>,
): TensorFile {
  const tensors = new Map<string, TensorInfo>();
  for (const [tensor, symbolic] of parameters) {
    const shape = symbolic as readonly number[];
    tensors.set(tensor, { dtype: 'F32', shape, bytes: 4 * shape.reduce((product, dim) => product * dim, 1) });
  }
  return { name, tensors, metadata: {}, read: readF32, readF32 };
}
