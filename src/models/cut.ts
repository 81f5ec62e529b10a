/**
 * Which channels and heads a narrower model keeps, and its weights read out of the wider one's.
 *
 * All parts that share a channel are cut together. Which axis of which weight runs over what is not written down a second
 * time: the decoder is asked for the shapes of its weights once more with that size doubled, and the axes that grew are
 * those. Where one axis holds several parts (q, k and v in one projection, gate and up in one) they follow one another.
 *
 * A norm over fewer channels divides by what those have: an RMSNorm by their root mean square, a LayerNorm by their deviation
 * from their own mean. Others cut its gain and bias with the channels (LLM-Pruner, Minitron) and leave it to training that what
 * comes out is of another size; here the gain is set right by what was measured, so that a cut which takes only silent channels
 * changes nothing. Of a LayerNorm that holds where the channels that stay have the mean of all, which moves from token to
 * token and so can't be put into its bias; set right on average too, it made no difference (docs/design.md).
 *
 * An encoder's heads fill its hidden state. So a narrower one keeps either fewer heads, or as many that are narrower: then
 * each loses the channels in which its queries and keys, and its values, are smallest.
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
  /** By the old numbers of layer and head, where heads are narrower: which of its channels stay. */
  readonly queries?: readonly (readonly (readonly number[])[])[];
  readonly values?: readonly (readonly (readonly number[])[])[];
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
  from: Widths & { readonly num_hidden_layers: number; readonly head_dim: number },
  to: Widths & { readonly head_dim: number },
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
    ...(to.head_dim < from.head_dim && {
      queries: perLayer.map((layer) => withinHeads(importance?.queries?.[layer], from, to.head_dim)),
      values: perLayer.map((layer) => withinHeads(importance?.values[layer], from, to.head_dim)),
    }),
  };
}

/** By head: its channels that stay. */
function withinHeads(
  score: readonly number[] | undefined,
  { num_attention_heads, head_dim }: Widths & { readonly head_dim: number },
  count: number,
): number[][] {
  return Array.from({ length: num_attention_heads }, (_, head) =>
    largest(score?.slice(head * head_dim, (head + 1) * head_dim) ?? new Array<number>(head_dim).fill(0), count),
  );
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
    /** By the old number of the head; absent: all its channels. */
    within?: readonly (readonly number[])[];
  },
  options: Widths & { readonly head_dim: number },
): number[] | undefined {
  const entries: number[] = [];
  let start = 0;
  const take = (
    places: readonly number[],
    of: number,
    times: number,
    width = 1,
    within?: readonly (readonly number[])[],
  ): void => {
    const whole = Array.from({ length: width }, (_, d) => d);
    for (let part = 0; part < times; part++) {
      for (const place of places) for (const d of within?.[place] ?? whole) entries.push(start + place * width + d);
      start += of * width;
    }
  };
  const D = options.head_dim;
  take(kept.hidden, options.hidden_size, counts.hidden);
  take(kept.intermediate, options.intermediate_size, counts.intermediate);
  take(kept.heads, options.num_attention_heads, counts.heads / D, D, kept.within);
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
  const [query, key] = isEncoder(options) ? options.names.qkv : [];
  const isOf = (module: string | undefined, source: string): boolean =>
    module !== undefined && source.startsWith(`${layers}.`) && source.includes(`.${module}.`);
  const sources = new Map<string, { source: string; entries: (number[] | undefined)[]; shape: readonly number[] }>();
  const tensors = new Map<string, TensorInfo>();
  for (const name of names) {
    const own = name.startsWith(`${layers}.`) ? Number(/\d+/.exec(name)![0]) : undefined;
    const layer = own === undefined ? undefined : kept.layers[own]!;
    const source = layer === undefined ? name : name.replace(/\d+/, String(layer));
    const within = isOf(query, source) || isOf(key, source) ? kept.queries : kept.values;
    const ofLayer = {
      hidden: kept.hidden,
      intermediate: kept.intermediate[layer ?? 0]!,
      heads: kept.heads[layer ?? 0]!,
      kv_heads: kept.kv_heads[layer ?? 0]!,
      within: within?.[layer ?? 0],
    };
    const whole = weights.tensors.get(source)!.shape;
    const entries = axes.get(source)!.map((counts) => entriesOf(counts, ofLayer, sizes));
    const shape = whole.map((size, axis) => entries[axis]?.length ?? size);
    sources.set(name, { source, entries, shape: whole });
    tensors.set(name, { dtype: 'F32', shape, bytes: 4 * shape.reduce((a, b) => a * b, 1) });
  }
  // scores are divided by √head_dim: a query of narrower heads is made so much smaller that they stay what they were
  const queryScale = Math.sqrt((kept.queries?.[0]![0]!.length ?? sizes.head_dim) / sizes.head_dim);
  const readF32 = async (name: string): Promise<Float32Array<ArrayBuffer>> => {
    const { source, entries, shape } = sources.get(name)!;
    const data = await weights.readF32(source);
    const cut = entries.every((places) => places === undefined) ? data : gathered(data, shape, entries);
    if (queryScale !== 1 && isOf(query, source)) return cut.map((value) => value * queryScale);
    const squares = importance?.normalized[source.replace(/\.weight$/, '')];
    if (squares === undefined || kept.hidden.length === options.hidden_size) return cut;
    return withSameScale(cut, squares, kept.hidden, isEncoder(options) ? 0 : (options.norm_offset ?? 0));
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

/**
 * x / rms, over all channels, has a mean square of 1; over those that stay it has this one, by which the narrower norm divides
 * too much. Of a LayerNorm the same, as long as they have the mean of all.
 */
function withSameScale(
  gain: Float32Array<ArrayBuffer>,
  squares: readonly number[],
  hidden: readonly number[],
  offset: number,
): Float32Array<ArrayBuffer> {
  const scale = Math.sqrt(hidden.reduce((sum, channel) => sum + squares[channel]!, 0) / hidden.length);
  return gain.map((value) => (value + offset) * scale - offset);
}
