/**
 * The optimisers, by the names of transformers' TrainingArguments.optim: which moments each keeps beside a parameter,
 * and its update.
 */
import type { Value } from '../engine/graph/types.ts';
import { adamw, lion, sgd } from '../engine/ops/index.ts';

/** `sgd` is torch's without momentum, as transformers starts it where optim_args is not given. */
export type Optim = 'adamw_torch' | 'adamw_torch_fused' | 'sgd' | 'lion_32bit';

export type Moment = 'm' | 'v';

const MOMENTS: Record<Optim, readonly Moment[]> = {
  adamw_torch: ['m', 'v'],
  adamw_torch_fused: ['m', 'v'],
  sgd: [],
  lion_32bit: ['m'],
};

export function momentsOf(optim: Optim): readonly Moment[] {
  return MOMENTS[optim];
}

/**
 * @param state gives the parameter, or a moment, of the shard: f32 [N]
 * @param hyper f32 [8], as `adamw` takes it
 * @param norm f32 [1], the squared global norm of all gradients
 */
export function update(
  optim: Optim,
  state: (name: 'parameter' | Moment) => Value,
  gradient: Value,
  hyper: Value,
  norm: Value,
  attributes: { decay: boolean },
): void {
  if (optim === 'sgd') sgd(state('parameter'), gradient, hyper, norm, attributes);
  else if (optim === 'lion_32bit') lion(state('parameter'), state('m'), gradient, hyper, norm, attributes);
  else adamw(state('parameter'), state('m'), state('v'), gradient, hyper, norm, attributes);
}
