/**
 * Which channels and heads a narrower model keeps, and its weights read out of the wider one's.
 *
 * All parts that share a channel are cut together. Which axis of which weight runs over what is not written down a second
 * time: the decoder is asked for the shapes of its weights once more with that size doubled, and the axes that grew are
 * those. Where one axis holds several parts (q, k and v in one projection, gate and up in one) they follow one another.
 *
 * An RMSNorm over fewer channels divides by another root mean square: its gain is set right by what was measured, so that a
 * cut which takes only silent channels changes nothing.
 */
import { InputError } from '../formats/input-error.ts';
import type { TensorFile, TensorInfo } from '../formats/tensor-file.ts';
import { isEncoder, type ModelOptions } from './architectures/index.ts';
import type { Importance } from './importance.ts';
import { baseParameters } from './model.ts';
import { LLAMA_NAMES } from './names.ts';

export interface Kept {
  readonly layers: readonly number[];
  readonly hidden: readonly number[];
  /** By the old number of the layer. */
  readonly intermediate: readonly (readonly number[])[];
  readonly heads: readonly (readonly number[])[];
  readonly kv_heads: readonly (readonly number[])[];
}

export interface Widths {
  readonly hidden_size: number;
  readonly intermediate_size: number;
  readonly num_attention_heads: number;
  readonly num_key_value_heads: number;
}

/** An encoder's heads have keys and values of their own. */
export function sizesOf(options: ModelOptions): Widths & { readonly head_dim: number } {
  if (!isEncoder(options)) return options;
  const { hidden_size, num_attention_heads: heads } = options;
  return { ...options, num_key_value_heads: heads, head_dim: options.head_dim ?? hidden_size / heads };
}

/** What stands before a layer's number in the names of its weights, without the dot. */
export const layersOf = ({ names = LLAMA_NAMES }: ModelOptions): string => names.layers;

/** The layers that turn their input most, in their order. */
export function importantLayers({ layers }: Importance, count: number): number[] {
  return largest(layers, count);
}

/** @param importance without it the first of everything: shapes and bytes are the same, and a plan needs no more */
export function keptChannels(
  from: Widths & { readonly num_hidden_layers: number },
  to: Widths,
  layers: readonly number[],
  importance: Importance | undefined,
  file: string,
): Kept {
  for (const width of ['hidden_size', 'intermediate_size', 'num_attention_heads', 'num_key_value_heads'] as const) {
    if (to[width] > from[width]) {
      throw new InputError(
        file,
        `student.compress.${width}`,
        `${to[width]} of ${from[width]} can't be kept`,
        `1 to ${from[width]}`,
      );
    }
  }
  const group = from.num_attention_heads / from.num_key_value_heads;
  const keptGroup = to.num_attention_heads / to.num_key_value_heads;
  if (keptGroup > group) {
    throw new InputError(
      file,
      'student.compress.num_attention_heads',
      `${to.num_attention_heads} heads on ${to.num_key_value_heads} key-value heads share each among more than the ${group} of the model that is cut`,
      `at most ${group} a key-value head`,
    );
  }
  const flat = (count: number): number[] => new Array<number>(count).fill(0);
  const hiddenScore = flat(from.hidden_size);
  for (const channels of Object.values(importance?.norms ?? {})) {
    channels.forEach((square, c) => (hiddenScore[c]! += Math.sqrt(square)));
  }
  const perLayer = Array.from({ length: from.num_hidden_layers }, (_, i) => i);
  const heads: number[][] = [];
  const kv_heads: number[][] = [];
  for (const layer of perLayer) {
    const score = importance?.heads[layer] ?? flat(from.num_attention_heads);
    const groups = Array.from({ length: from.num_key_value_heads }, (_, kv) =>
      score.slice(kv * group, (kv + 1) * group),
    );
    const kept = largest(
      groups.map((of) => of.reduce((a, b) => a + b, 0)),
      to.num_key_value_heads,
    );
    kv_heads.push(kept);
    heads.push(kept.flatMap((kv) => largest(groups[kv]!, keptGroup).map((head) => kv * group + head)));
  }
  return {
    layers,
    hidden: largest(hiddenScore, to.hidden_size),
    intermediate: perLayer.map((layer) =>
      largest(importance?.intermediate[layer] ?? flat(from.intermediate_size), to.intermediate_size),
    ),
    heads,
    kv_heads,
  };
}

/** Places of the largest, rising; of equals the first. */
function largest(score: readonly number[], count: number): number[] {
  return score
    .map((_, i) => i)
    .sort((a, b) => score[b]! - score[a]! || a - b)
    .slice(0, count)
    .sort((a, b) => a - b);
}

/** How often a size is counted in each axis of each weight. */
type Axes = ReadonlyMap<string, readonly { hidden: number; intermediate: number; heads: number; kv_heads: number }[]>;

function axesOf(options: ModelOptions): Axes {
  const {
    hidden_size,
    intermediate_size,
    num_attention_heads: heads,
    num_key_value_heads: kv,
    head_dim,
  } = sizesOf(options);
  const shapes = (change: Partial<Widths>): Map<string, readonly number[]> =>
    baseParameters({ ...options, head_dim, ...change }) as Map<string, readonly number[]>;
  const plain = shapes({});
  const hidden = shapes({ hidden_size: 2 * hidden_size });
  const intermediate = shapes({ intermediate_size: 2 * intermediate_size });
  const moreHeads = shapes({ num_attention_heads: 2 * heads });
  const moreBoth = shapes({ num_attention_heads: 2 * heads, num_key_value_heads: 2 * kv });
  return new Map(
    [...plain].map(([name, shape]) => [
      name,
      shape.map((size, axis) => ({
        hidden: (hidden.get(name)![axis]! - size) / hidden_size,
        intermediate: (intermediate.get(name)![axis]! - size) / intermediate_size,
        heads: (moreHeads.get(name)![axis]! - size) / heads,
        kv_heads: (moreBoth.get(name)![axis]! - moreHeads.get(name)![axis]!) / kv,
      })),
    ]),
  );
}

/** Entries of an axis that stay; undefined: all. */
function entriesOf(
  counts: { hidden: number; intermediate: number; heads: number; kv_heads: number },
  kept: {
    hidden: readonly number[];
    intermediate: readonly number[];
    heads: readonly number[];
    kv_heads: readonly number[];
  },
  options: Widths & { readonly head_dim: number },
): number[] | undefined {
  const entries: number[] = [];
  let start = 0;
  const take = (places: readonly number[], of: number, times: number, width: number): void => {
    for (let part = 0; part < times; part++) {
      for (const place of places) for (let d = 0; d < width; d++) entries.push(start + place * width + d);
      start += of * width;
    }
  };
  const D = options.head_dim;
  take(kept.hidden, options.hidden_size, counts.hidden, 1);
  take(kept.intermediate, options.intermediate_size, counts.intermediate, 1);
  take(kept.heads, options.num_attention_heads, counts.heads / D, D);
  take(kept.kv_heads, options.num_key_value_heads, counts.kv_heads / D, D);
  return start === 0 ? undefined : entries;
}

export function cutWeights(
  weights: TensorFile,
  options: ModelOptions,
  kept: Kept,
  names: Iterable<string>,
  importance: Importance | undefined,
): TensorFile {
  const axes = axesOf(options);
  const sizes = sizesOf(options);
  const layers = layersOf(options);
  const sources = new Map<string, { source: string; entries: (number[] | undefined)[]; shape: readonly number[] }>();
  const tensors = new Map<string, TensorInfo>();
  for (const name of names) {
    const own = name.startsWith(`${layers}.`) ? Number(/\d+/.exec(name)![0]) : undefined;
    const layer = own === undefined ? undefined : kept.layers[own]!;
    const source = layer === undefined ? name : name.replace(/\d+/, String(layer));
    const ofLayer = {
      hidden: kept.hidden,
      intermediate: kept.intermediate[layer ?? 0]!,
      heads: kept.heads[layer ?? 0]!,
      kv_heads: kept.kv_heads[layer ?? 0]!,
    };
    const whole = weights.tensors.get(source)!.shape;
    const entries = axes.get(source)!.map((counts) => entriesOf(counts, ofLayer, sizes));
    const shape = whole.map((size, axis) => entries[axis]?.length ?? size);
    sources.set(name, { source, entries, shape: whole });
    tensors.set(name, { dtype: 'F32', shape, bytes: 4 * shape.reduce((a, b) => a * b, 1) });
  }
  const readF32 = async (name: string): Promise<Float32Array<ArrayBuffer>> => {
    const { source, entries, shape } = sources.get(name)!;
    const data = await weights.readF32(source);
    const cut = entries.every((places) => places === undefined) ? data : gathered(data, shape, entries);
    if (isEncoder(options) || options.norm === 'layernorm') return cut;
    const squares = importance?.norms[source.replace(/\.weight$/, '')];
    if (squares === undefined || kept.hidden.length === options.hidden_size) return cut;
    return withSameScale(cut, data, squares, kept.hidden, options.norm_offset ?? 0);
  };
  return { name: weights.name, tensors, metadata: weights.metadata, read: readF32, readF32 };
}

function gathered(
  data: Float32Array,
  shape: readonly number[],
  entries: readonly (readonly number[] | undefined)[],
): Float32Array<ArrayBuffer> {
  const columns = shape.length === 1 ? 1 : shape[1]!;
  const rows = entries[0] ?? Array.from({ length: shape[0]! }, (_, i) => i);
  const kept = shape.length === 1 ? [0] : (entries[1] ?? Array.from({ length: columns }, (_, i) => i));
  const out = new Float32Array(rows.length * kept.length);
  let at = 0;
  for (const row of rows) for (const column of kept) out[at++] = data[row * columns + column]!;
  return out;
}

/** Σ over what stays of (x / rms)² is what the narrower norm divides by, times the channels: 1 a channel before the cut. */
function withSameScale(
  gain: Float32Array<ArrayBuffer>,
  whole: Float32Array,
  squares: readonly number[],
  hidden: readonly number[],
  offset: number,
): Float32Array<ArrayBuffer> {
  let energy = 0;
  for (const channel of hidden) {
    const factor = whole[channel]! + offset;
    if (factor !== 0) energy += squares[channel]! / factor ** 2;
  }
  const scale = Math.sqrt(energy / hidden.length);
  return gain.map((value) => (value + offset) * scale - offset);
}
