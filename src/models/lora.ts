/**
 * Low-rank adapters (Hu et al. 2021, LoRA §4.1): a frozen W gains scaling · B·A, with A [r, in] and B [out, r].
 * Names and meanings are PEFT's: `scaling = lora_alpha / r`, or `/ √r` with rank stabilisation (Kalajdzievski 2023).
 *
 * DoRA (Liu et al. 2024) trains the length of each output's row apart from its direction:
 *   y = m / ‖W + scaling · B·A‖ ∘ (W + scaling · B·A) x,  the norm held constant in the gradient
 *
 * Beside the pairs an adapter may train whole weights of the base, under the base's own names: biases, and modules that
 * are saved with it.
 */
import type { Value } from '../engine/graph/types.ts';
import { add, addScaled, dropout, inverseNorms, matmul, mul } from '../engine/ops/index.ts';
import type { Graph } from '../engine/graph/graph.ts';

export interface LoraSettings {
  readonly r: number;
  readonly lora_alpha: number;
  readonly lora_dropout: number;
  /** Last parts of module paths, 'all-linear', or a regular expression that a whole path must match. */
  readonly target_modules: readonly string[] | string;
  readonly use_rslora: boolean;
  readonly use_dora?: boolean;
  /** Rows of the embedding, or of modules by name, that are trained too. */
  readonly trainable_token_indices?: TokenIndices | null;
  readonly rank_pattern?: Readonly<Record<string, number>>;
  readonly alpha_pattern?: Readonly<Record<string, number>>;
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

/** Whether PEFT would put an adapter on this module, and of which rank. The head only where it is named. */
export function adapted(settings: LoraSettings | null, path: string): AdaptedLinear | undefined {
  if (!settings || !isTarget(settings.target_modules, path) || isKeptFromPairs(settings, path)) return undefined;
  const r = fromPattern(settings.rank_pattern, path) ?? settings.r;
  const alpha = fromPattern(settings.alpha_pattern, path) ?? settings.lora_alpha;
  return { path, r, scaling: alpha / (settings.use_rslora ? Math.sqrt(r) : r) };
}

/** Whether an adapter trains this weight of the base whole. */
export function trainsWhole(settings: LoraSettings, name: string): boolean {
  const path = name.slice(0, Math.max(0, name.lastIndexOf('.')));
  if (isSaved(settings, path)) return true;
  if (!name.endsWith('.bias')) return false;
  return settings.bias === 'all' || (settings.bias === 'lora_only' && adapted(settings, path) !== undefined);
}

/** PEFT's `_set_trainable`: the module, or one that it lies in, ends with a name; "norm" means input_layernorm as well. */
function isSaved({ modules_to_save }: LoraSettings, path: string): boolean {
  if (!modules_to_save?.length) return false;
  const parts = path.split('.');
  return parts.some((_, i) => {
    const module = parts.slice(0, i + 1).join('.');
    return modules_to_save.some((name) => module.endsWith(name));
  });
}

/** PEFT's `check_target_module_exists`: what lies in a saved module gets no pair; names count between dots here. */
function isKeptFromPairs({ modules_to_save }: LoraSettings, path: string): boolean {
  return (modules_to_save ?? []).some((name) => `.${path}.`.includes(`.${name}.`));
}

function isTarget(targets: LoraSettings['target_modules'], path: string): boolean {
  if (targets === 'all-linear') return !path.endsWith('lm_head');
  if (typeof targets === 'string') return new RegExp(`^(?:${targets})$`).test(path);
  return targets.some((target) => path === target || path.endsWith(`.${target}`));
}

/** PEFT's `get_pattern_key`: a key matches a path that ends with it, at a dot. */
function fromPattern(pattern: Readonly<Record<string, number>> | undefined, path: string): number | undefined {
  for (const [key, value] of Object.entries(pattern ?? {})) {
    if (new RegExp(`(^|.*\\.)${key}$`).test(path)) return value;
  }
  return undefined;
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

/** The layer's product with its adapter; a bias joins afterwards. */
export function withLora(
  graph: Graph,
  linear: AdaptedLinear,
  { x, w, y, conv1d }: LinearSite,
  { trainable, dora, drop }: { trainable: boolean; dora: boolean; drop: LoraDropout | undefined },
): Value {
  const inputs = x.type.shape.at(-1)!;
  const outputs = y.type.shape.at(-1)!;
  const { path, r, scaling } = linear;
  const a = graph.parameter(`${path}.lora_A.weight`, [r, inputs], { trainable });
  const b = graph.parameter(`${path}.lora_B.weight`, [outputs, r], { trainable });
  const drops = drop !== undefined && drop.p > 0;
  const dropped = drops ? dropout(x, drop.seed, { p: drop.p, site: drop.site() }) : x;
  const low = matmul(matmul(dropped, a, { transB: true }), b, { transB: true });
  if (!dora) return addScaled(y, low, scaling);

  const magnitude = graph.parameter(`${path}.lora_magnitude_vector.weight`, [outputs], { trainable });
  const delta = conv1d ? matmul(a, b, { transA: true, transB: true }) : matmul(b, a);
  const gain = mul(magnitude, inverseNorms(w, delta, { scaling, columns: conv1d }));
  if (!drops) return mul(addScaled(y, low, scaling), gain);
  // y + (gain − 1) ∘ W x + gain ∘ scaling · B A x, with the x that was dropped from
  const base = matmul(dropped, w, { transB: !conv1d });
  return add(y, addScaled(mul(addScaled(base, low, scaling), gain), base, -1));
}
