/**
 * Low-rank adapters (Hu et al. 2021, LoRA §4.1): a frozen W gains scaling · B·A, with A [r, in] and B [out, r].
 * Names and meanings are PEFT's: `scaling = lora_alpha / r`, or `/ √r` with rank stabilisation (Kalajdzievski 2023).
 *
 * DoRA (Liu et al. 2024) trains the length of each output's row apart from its direction:
 *   y = m / ‖W + scaling · B·A‖ ∘ (W + scaling · B·A) x,  the norm held constant in the gradient
 *
 * With `lora_bias` B has a bias, which joins before the scaling. Beside the pairs an adapter may train whole weights of the base, under the base's own names: biases, and modules that
 * are saved with it.
 */
import type { Value } from '../engine/graph/types.ts';
import type { Graph } from '../engine/graph/graph.ts';
import { add, addScaled, concat, dropout, inverseNorms, matmul, mul, scale, scaleRows } from '../engine/ops/index.ts';
import { rankOf, scalingOf, targets } from '../formats/peft-modules.ts';

export interface LoraSettings {
  readonly r: number;
  readonly lora_alpha: number;
  readonly lora_dropout: number;
  /** Last parts of module paths, 'all-linear', or a regular expression that a whole path must match. */
  readonly target_modules: readonly string[] | string;
  readonly use_rslora: boolean;
  readonly use_dora?: boolean;
  readonly lora_bias?: boolean;
  /** Rows of the embedding, or of modules by name, that are trained too. */
  readonly trainable_token_indices?: TokenIndices | null;
  readonly rank_pattern?: Readonly<Record<string, number>>;
  readonly alpha_pattern?: Readonly<Record<string, number>>;
  /** Modules that get no pair, as target_modules names those that do. */
  readonly exclude_modules?: readonly string[] | string | null;
  /** Layers that pairs are kept to; their lists by name, where there are several. */
  readonly layers_to_transform?: readonly number[] | null;
  readonly layers_pattern?: readonly string[] | null;
  /** Modules trained and kept whole, by the end of their path. */
  readonly modules_to_save?: readonly string[] | null;
  /** Biases trained too: all of the model's, or those of layers with a pair. */
  readonly bias?: 'none' | 'all' | 'lora_only';
}

/** Consecutive ids: of the embedding (and the head that shares it), or by the end of a module's path. */
export type TokenIndices = readonly number[] | Readonly<Record<string, readonly number[]>>;

/** The rows of a table (an embedding, a head) that an adapter trains. */
export function trainedRows(
  { trainable_token_indices: indices }: Pick<LoraSettings, 'trainable_token_indices'>,
  path: string,
  isEmbedding: boolean,
): { readonly name: string; readonly first: number; readonly count: number } | undefined {
  const listed = (ids: unknown): ids is readonly number[] => Array.isArray(ids);
  const found = listed(indices)
    ? isEmbedding && indices
    : Object.entries(indices ?? {}).find(([end]) => path === end || path.endsWith(`.${end}`))?.[1];
  if (!found || found.length === 0) return undefined;
  return { name: `${path}.token_adapter.trainable_tokens_delta`, first: found[0]!, count: found.length };
}

export interface AdaptedLinear {
  /** Module path, e.g. model.layers.0.self_attn.q_proj */
  readonly path: string;
  readonly r: number;
  readonly scaling: number;
}

/** Whether PEFT would put an adapter on this linear layer, and of which rank. */
export function adapted(settings: LoraSettings | null, path: string): AdaptedLinear | undefined {
  if (!settings || !targets(settings, path, 'lora')) return undefined;
  return { path, r: rankOf(settings, path, 'lora'), scaling: scalingOf(settings, path, 'lora') };
}

/** The same of the layer that makes logits, which "all-linear" does not mean. */
export function adaptedHead(settings: LoraSettings, path: string): AdaptedLinear | undefined {
  return settings.target_modules === 'all-linear' ? undefined : adapted(settings, path);
}

/** Whether an adapter trains this weight of the base whole. */
export function trainsWhole(settings: LoraSettings, name: string): boolean {
  const path = name.slice(0, Math.max(0, name.lastIndexOf('.')));
  if (savedModule(settings, path) !== undefined) return true;
  if (!name.endsWith('.bias') || name.endsWith('.lora_B.bias')) return false;
  return settings.bias === 'all' || (settings.bias === 'lora_only' && adapted(settings, path) !== undefined);
}

/**
 * The module that is saved with this one in it. PEFT's `_set_trainable`: its path ends with a name, so that "norm" means
 * input_layernorm as well.
 */
function savedModule({ modules_to_save }: LoraSettings, path: string): string | undefined {
  const parts = path.split('.');
  const modules = parts.map((_, i) => parts.slice(0, i + 1).join('.'));
  return modules.find((module) => modules_to_save?.some((name) => module.endsWith(name)));
}

/** What PEFT's model calls a parameter, without its own prefix and the adapter's name: a base weight lies in a wrapper. */
export function peftName(settings: LoraSettings, name: string): string {
  const path = name.slice(0, Math.max(0, name.lastIndexOf('.')));
  const saved = savedModule(settings, path);
  if (saved !== undefined) return `${saved}.modules_to_save${name.slice(saved.length)}`;
  return name.endsWith('.bias') && adapted(settings, path) ? `${path}.base_layer.bias` : name;
}

export interface LoraDropout {
  readonly p: number;
  /** i32[2]: seed, step */
  readonly seed: Value;
  /** A number of its own for every place where masks are drawn. */
  site(): number;
}

export interface LinearSite {
  readonly x: Value;
  /** The layer's weight, [out, in] or (`conv1d`) [in, out], and its product with x, without bias. */
  readonly w: Value;
  readonly y: Value;
  readonly conv1d: boolean;
}

export interface LoraChoices {
  readonly trainable: boolean;
  readonly dora: boolean;
  /** Whether B has a bias; PEFT has none beside DoRA. */
  readonly bias: boolean;
  readonly drop: LoraDropout | undefined;
}

/** The layer's product with its adapter; a bias joins afterwards. */
export function withLora(
  graph: Graph,
  linear: AdaptedLinear,
  { x, w, y, conv1d }: LinearSite,
  { trainable, dora, bias, drop }: LoraChoices,
): Value {
  const inputs = x.type.shape.at(-1)!;
  const outputs = y.type.shape.at(-1)!;
  const { path, r, scaling } = linear;
  const a = graph.parameter(`${path}.lora_A.weight`, [r, inputs], { trainable });
  const b = graph.parameter(`${path}.lora_B.weight`, [outputs, r], { trainable });
  const drops = drop !== undefined && drop.p > 0;
  const dropped = drops ? dropout(x, drop.seed, { p: drop.p, site: drop.site() }) : x;
  const product = matmul(matmul(dropped, a, { transB: true }), b, { transB: true });
  const low = bias ? add(product, graph.parameter(`${path}.lora_B.bias`, [outputs], { trainable })) : product;
  if (!dora) return addScaled(y, low, scaling);

  const gain = gainOf(graph, linear, { w, a, b, conv1d }, trainable);
  if (!drops) return mul(addScaled(y, low, scaling), gain);
  // y + (gain − 1) ∘ W x + gain ∘ scaling · B A x, with the x that was dropped from
  const base = matmul(dropped, w, { transB: !conv1d });
  return add(y, addScaled(mul(addScaled(base, low, scaling), gain), base, -1));
}

/** DoRA's factor of each output, m / ‖W + scaling · B·A‖, f32 [outputs] */
function gainOf(
  graph: Graph,
  { path, scaling }: AdaptedLinear,
  { w, a, b, conv1d }: { w: Value; a: Value; b: Value; conv1d: boolean },
  trainable: boolean,
): Value {
  const magnitude = graph.parameter(`${path}.lora_magnitude_vector.weight`, [b.type.shape[0]!], { trainable });
  const delta = conv1d ? matmul(a, b, { transA: true, transB: true }) : matmul(b, a);
  return mul(magnitude, inverseNorms(w, delta, { scaling, columns: conv1d }));
}

/**
 * A head with its pair. What makes a loss of logits takes one product, so the pair lengthens what is summed over:
 *   x Wᵀ + scaling · x Aᵀ Bᵀ = [x, scaling · x Aᵀ] [W, B]ᵀ
 * DoRA's factor is of a row of [W, B]. Where the pair's x is dropped from, x' say, only x Wᵀ is whole:
 *   x Wᵀ + (gain − 1) ∘ x' Wᵀ + gain ∘ scaling · x' Aᵀ Bᵀ = [x − x', x', scaling · x' Aᵀ] [W, gain ∘ [W, B]]ᵀ
 */
export function headWithLora(
  graph: Graph,
  linear: AdaptedLinear,
  { hidden, weight }: { hidden: Value; weight: Value },
  { trainable, dora, drop }: Omit<LoraChoices, 'bias'>,
): { hidden: Value; weight: Value } {
  const { path, r, scaling } = linear;
  const [outputs, inputs] = weight.type.shape as [number, number];
  const a = graph.parameter(`${path}.lora_A.weight`, [r, inputs], { trainable });
  const b = graph.parameter(`${path}.lora_B.weight`, [outputs, r], { trainable });
  const drops = drop !== undefined && drop.p > 0;
  const dropped = drops ? dropout(hidden, drop.seed, { p: drop.p, site: drop.site() }) : hidden;
  const low = scale(matmul(dropped, a, { transB: true }), scaling);
  const long = concat([weight, b]);
  if (!dora) return { hidden: concat([hidden, low]), weight: long };
  const scaled = scaleRows(long, gainOf(graph, linear, { w: weight, a, b, conv1d: false }, trainable));
  if (!drops) return { hidden: concat([hidden, low]), weight: scaled };
  const left = addScaled(hidden, dropped, -1);
  return { hidden: concat([left, dropped, low]), weight: concat([weight, scaled]) };
}
