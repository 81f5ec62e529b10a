/**
 * Low-rank adapters (Hu et al. 2021, LoRA §4.1): a frozen W gains scaling · B·A, with A [r, in] and B [out, r].
 * Names and meanings are PEFT's: `scaling = lora_alpha / r`, or `/ √r` with rank stabilisation (Kalajdzievski 2023).
 */
import type { Value } from '../engine/graph/types.ts';
import { addScaled, dropout, matmul } from '../engine/ops/index.ts';
import type { Graph } from '../engine/graph/graph.ts';

export interface LoraSettings {
  readonly r: number;
  readonly lora_alpha: number;
  readonly lora_dropout: number;
  /** Last parts of module paths, 'all-linear', or a regular expression that a whole path must match. */
  readonly target_modules: readonly string[] | string;
  readonly use_rslora: boolean;
  readonly rank_pattern?: Readonly<Record<string, number>>;
  readonly alpha_pattern?: Readonly<Record<string, number>>;
}

export interface AdaptedLinear {
  /** Module path, e.g. model.layers.0.self_attn.q_proj */
  readonly path: string;
  readonly r: number;
  readonly scaling: number;
}

/** Whether PEFT would put an adapter on this module, and of which rank. The head only where it is named. */
export function adapted(settings: LoraSettings | null, path: string): AdaptedLinear | undefined {
  if (!settings || !isTarget(settings.target_modules, path)) return undefined;
  const r = fromPattern(settings.rank_pattern, path) ?? settings.r;
  const alpha = fromPattern(settings.alpha_pattern, path) ?? settings.lora_alpha;
  return { path, r, scaling: alpha / (settings.use_rslora ? Math.sqrt(r) : r) };
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

/** y + scaling · dropout(x) Aᵀ Bᵀ. */
export function withLora(
  graph: Graph,
  linear: AdaptedLinear,
  x: Value,
  y: Value,
  trainable: boolean,
  drop: LoraDropout | undefined,
): Value {
  const inputs = x.type.shape.at(-1)!;
  const outputs = y.type.shape.at(-1)!;
  const a = graph.parameter(`${linear.path}.lora_A.weight`, [linear.r, inputs], { trainable });
  const b = graph.parameter(`${linear.path}.lora_B.weight`, [outputs, linear.r], { trainable });
  const dropped = drop && drop.p > 0 ? dropout(x, drop.seed, { p: drop.p, site: drop.site() }) : x;
  const low = matmul(dropped, a, { transB: true });
  return addScaled(y, matmul(low, b, { transB: true }), linear.scaling);
}
