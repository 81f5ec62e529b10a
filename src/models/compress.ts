/**
 * A smaller student out of a larger model (DESIGN §4): fewer of its layers, taken as they are; a narrower one of its most
 * important channels and heads; or one of random weights. The result is a model like any other; its weights are read from the larger one when asked for.
 */
import type { Shape } from '../engine/graph/types.ts';
import { InputError } from '../formats/input-error.ts';
import type { TensorFile, TensorInfo } from '../formats/tensor-file.ts';
import { configField, isEncoder, readAnyArchitecture, type ModelOptions } from './architectures/index.ts';
import { cutWeights, importantLayers, keptChannels, layersOf, sizesOf, type Widths } from './cut.ts';
import type { Importance } from './importance.ts';
import { initialWeight } from './initialize.ts';
import { baseParameters, type Model } from './model.ts';

export interface Compression {
  readonly num_hidden_layers?: number;
  /** Exactly these layers, in this order. */
  readonly layers?: readonly number[];
  readonly hidden_size?: number;
  readonly intermediate_size?: number;
  readonly num_attention_heads?: number;
  readonly num_key_value_heads?: number;
  readonly init: 'first' | 'even' | 'last' | 'importance' | 'scratch';
}

const WIDTHS = ['hidden_size', 'intermediate_size', 'num_attention_heads', 'num_key_value_heads'] as const;

/**
 * @param file the recipe, for errors
 * @param importance as it was measured, for `init: importance`; without it the first of everything is taken, which has the
 *   same shapes and bytes
 */
export function compress<Options extends ModelOptions>(
  model: Model<Options>,
  choice: Compression,
  seed: number,
  file: string,
  importance?: Importance,
): Model<Options> {
  const { num_hidden_layers } = model.options;
  const kept = keptLayers(num_hidden_layers, choice, file, importance);
  const field = (name: string): string => configField(model.config.model_type, name);
  const config: Record<string, unknown> = { ...model.config, [field('num_hidden_layers')]: kept.length };
  // a layer keeps its window, listed or by habit
  const sliding_layers = isEncoder(model.options) ? undefined : model.options.sliding_layers;
  if (sliding_layers) {
    const slides = (layer: number): boolean => sliding_layers[layer % sliding_layers.length]!;
    config.layer_types = kept.map((layer) => (slides(layer) ? 'sliding_attention' : 'full_attention'));
  } else if (Array.isArray(config.layer_types)) {
    config.layer_types = kept.map(() => (config.layer_types as unknown[])[0]);
  }
  const sizes = sizesOf(model.options);
  const widths = widthsOf(sizes, choice, isEncoder(model.options));
  const narrower = WIDTHS.filter((width) => widths[width] !== sizes[width]);
  for (const width of narrower) {
    if (choice.init !== 'scratch' && choice.init !== 'importance') {
      throw new InputError(
        file,
        `student.compress.${width}`,
        `init "${choice.init}" says which layers stay and not which channels`,
        'init: "importance" or "scratch"',
      );
    }
    config[field(width)] = widths[width];
  }
  if (isEncoder(model.options)) {
    if (widths.num_key_value_heads !== widths.num_attention_heads) {
      const what = `is ${widths.num_key_value_heads}, and each of an encoder's heads has keys of its own`;
      throw new InputError(
        file,
        'student.compress.num_key_value_heads',
        what,
        `${widths.num_attention_heads}, or nothing`,
      );
    }
    delete config.num_key_value_heads;
  } else if (narrower.length > 0) {
    if (choice.init === 'scratch') delete config.head_dim;
    else if (model.options.rotary) config.head_dim = sizes.head_dim;
  }
  // of the same kind: model_type stays
  const options = readAnyArchitecture(config, file, new Set(model.weights.tensors.keys())) as Options;
  const parameters = baseParameters(options);
  const weights = (): TensorFile => {
    if (choice.init === 'scratch') {
      return fromScratch(parameters, seed, config, isEncoder(options) ? {} : options);
    }
    if (narrower.length === 0) return fromLayers(model.weights, parameters, kept, layersOf(options));
    const { head_dim } = sizes;
    const asked = sizesOf(options).head_dim;
    // rotary channels turn in pairs, and a fused projection does not say whose its channels are
    if (isEncoder(options) ? asked > head_dim : asked !== head_dim) {
      throw new InputError(
        file,
        'student.compress.hidden_size',
        `heads of ${asked} can't be cut out of heads of ${head_dim}`,
        isEncoder(options) ? `at most ${head_dim} a head` : `${head_dim} a head`,
      );
    }
    const to = { ...widths, head_dim: asked };
    const channels = keptChannels({ ...sizes, num_hidden_layers }, to, kept, importance, file);
    return cutWeights(model.weights, model.options, channels, parameters.keys(), importance);
  };
  return { ...model, name: `${model.name} (${kept.length} layers)`, config, options, parameters, weights: weights() };
}

/** Where each head has keys of its own, they are cut with the heads. */
function widthsOf(options: Widths, choice: Compression, isEncoder: boolean): Widths {
  const heads = choice.num_attention_heads ?? options.num_attention_heads;
  const shared = options.num_key_value_heads === options.num_attention_heads;
  const own = isEncoder || (shared && choice.init === 'importance');
  return {
    hidden_size: choice.hidden_size ?? options.hidden_size,
    intermediate_size: choice.intermediate_size ?? options.intermediate_size,
    num_attention_heads: heads,
    num_key_value_heads: choice.num_key_value_heads ?? (own ? heads : options.num_key_value_heads),
  };
}

/** Numbers of the layers that stay, rising unless `layers` says otherwise. */
export function keptLayers(total: number, choice: Compression, file: string, importance?: Importance): number[] {
  if (choice.layers) {
    const outside = choice.layers.find((layer) => layer >= total);
    if (outside !== undefined) {
      throw new InputError(file, 'student.compress.layers', `there is no layer ${outside}`, `0 to ${total - 1}`);
    }
    return [...choice.layers];
  }
  const count = choice.num_hidden_layers ?? total;
  if (choice.init !== 'scratch' && count > total) {
    throw new InputError(
      file,
      'student.compress.num_hidden_layers',
      `${count} of ${total} layers can't be kept`,
      `1 to ${total}`,
    );
  }
  const indices = Array.from({ length: count }, (_, i) => i);
  switch (choice.init) {
    case 'last':
      return indices.map((i) => total - count + i);
    case 'even':
      return evenLayers(total, count);
    case 'importance':
      return importance ? importantLayers(importance, count) : indices;
    default:
      return indices;
  }
}

/** First and last layer always stay (as DistilBERT and its successors take every second one). */
export function evenLayers(total: number, count: number): number[] {
  if (count === 1) return [0];
  return Array.from({ length: count }, (_, i) => Math.round((i * (total - 1)) / (count - 1)));
}

function fromLayers(
  weights: TensorFile,
  parameters: ReadonlyMap<string, Shape>,
  kept: readonly number[],
  layers: string,
): TensorFile {
  const sourceOf = (name: string): string => {
    if (!name.startsWith(`${layers}.`)) return name;
    return name.replace(/\d+/, (layer) => String(kept[Number(layer)]));
  };
  const tensors = new Map<string, TensorInfo>();
  for (const name of parameters.keys()) {
    const info = weights.tensors.get(sourceOf(name));
    if (info) tensors.set(name, info);
  }
  return {
    name: weights.name,
    tensors,
    metadata: weights.metadata,
    read: (name) => weights.read(sourceOf(name)),
    readF32: (name) => weights.readF32(sourceOf(name)),
  };
}

/** Random weights as if they lay in a file. */
export function fromScratch(
  parameters: ReadonlyMap<string, Shape>,
  seed: number,
  config: Readonly<Record<string, unknown>>,
  { norm_offset = 0 }: { readonly norm_offset?: number } = {},
): TensorFile {
  const range = typeof config.initializer_range === 'number' ? config.initializer_range : 0.02;
  const tensors = new Map<string, TensorInfo>();
  for (const [name, shape] of parameters) {
    const sizes = shape as readonly number[];
    tensors.set(name, { dtype: 'F32', shape: sizes, bytes: 4 * sizes.reduce((a, b) => a * b, 1) });
  }
  const readF32 = async (name: string): Promise<Float32Array<ArrayBuffer>> => {
    const shape = parameters.get(name)!;
    const data = initialWeight(name, shape, seed, range);
    // a norm begins at 1, which may lie as 0
    return norm_offset !== 0 && shape.length === 1 ? data.fill(0) : data;
  };
  return { name: 'random weights', tensors, metadata: {}, read: readF32, readF32 };
}
