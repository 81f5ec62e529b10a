/**
 * The optimisers, by the names of transformers' TrainingArguments.optim: what each keeps beside a parameter, and its update.
 * Most take a whole shard of flat parameters for one tensor; where a tensor's shape or blocks count, each is by itself.
 */
import { bytesOf, sizeOf, type Shape, type TensorType, type Value } from '../engine/graph/types.ts';
import { adafactor, adamw, adamw8bit, lion, sgd, statesOf8bit } from '../engine/ops/index.ts';

/** `sgd` is torch's without momentum, as transformers starts it; `sgd_momentum` takes adam_beta1 for it. */
export type Optim =
  | 'adamw_torch'
  | 'adamw_torch_fused'
  | 'sgd'
  | 'sgd_momentum'
  | 'lion_32bit'
  | 'adafactor'
  | 'adamw_8bit'
  | 'adamw_bnb_8bit';

/** What is updated at once: a tensor by its hub name, or a shard by its number. */
export interface Unit {
  readonly name: string;
  readonly shape: Shape;
}

/** What is kept of a unit, zeros at the start. */
type States = Readonly<Record<string, TensorType>>;

interface Optimizer {
  readonly perTensor: boolean;
  states(unit: Unit): States;
  /** Settings that the update takes in place of 1 − beta1^t and 1 − beta2^t. */
  corrections?(t: number): [number, number];
  update(
    parameter: Value,
    state: Readonly<Record<string, Value>>,
    gradient: Value,
    hyper: Value,
    norm: Value,
    attributes: { decay: boolean },
  ): void;
}

const f32 = (shape: Shape): TensorType => ({ shape, dtype: 'f32' });

const ADAMW: Optimizer = {
  perTensor: false,
  states: ({ shape }) => ({ m: f32(shape), v: f32(shape) }),
  update: (parameter, { m, v }, ...rest) => void adamw(parameter, m!, v!, ...rest),
};

/** As bitsandbytes has it under the Trainer: moments of small tensors and of embeddings stay f32. */
const ADAMW_8BIT: Optimizer = {
  perTensor: true,
  states: (unit) =>
    sizeOf(unit.shape) < 4096 || /(?:^|\.)(?:embed_tokens|wte|wpe)\.weight$/.test(unit.name)
      ? ADAMW.states(unit)
      : statesOf8bit(sizeOf(unit.shape)),
  update: (parameter, state, ...rest) =>
    state.absmax
      ? void adamw8bit(parameter, [state.m!, state.v!, state.absmax], ...rest)
      : ADAMW.update(parameter, state, ...rest),
};

const OPTIMIZERS: Readonly<Record<Optim, Optimizer>> = {
  adamw_torch: ADAMW,
  adamw_torch_fused: ADAMW,
  sgd: {
    perTensor: false,
    states: () => ({}),
    update: (parameter, _, ...rest) => void sgd(parameter, undefined, ...rest),
  },
  sgd_momentum: {
    perTensor: false,
    states: ({ shape }) => ({ m: f32(shape) }),
    update: (parameter, { m }, ...rest) => void sgd(parameter, m!, ...rest),
  },
  lion_32bit: {
    perTensor: false,
    states: ({ shape }) => ({ m: f32(shape) }),
    update: (parameter, { m }, ...rest) => void lion(parameter, m!, ...rest),
  },
  adafactor: {
    perTensor: true,
    states: ({ shape }): States =>
      shape.length === 2 ? { row: f32([shape[0]!]), col: f32([shape[1]!]) } : { v: f32(shape) },
    corrections: (t) => [1, t ** -0.8],
    update: (parameter, { row, col, v }, ...rest) => void adafactor(parameter, row && col ? [row, col] : [v!], ...rest),
  },
  adamw_8bit: ADAMW_8BIT,
  adamw_bnb_8bit: ADAMW_8BIT,
};

export function statesOf(optim: Optim, unit: Unit): States {
  return OPTIMIZERS[optim].states(unit);
}

/** What a shard is updated as. */
export function unitsOf(
  optim: Optim,
  index: number,
  shard: { shape: Shape; tensors: readonly Unit[] },
): readonly Unit[] {
  return OPTIMIZERS[optim].perTensor ? shard.tensors : [{ name: String(index), shape: shard.shape }];
}

/** Bytes kept beside these tensors, but for padding. */
export function stateBytes(optim: Optim, tensors: readonly Unit[]): number {
  const { perTensor } = OPTIMIZERS[optim];
  const units = perTensor ? tensors : tensors.map(({ name, shape }) => ({ name, shape: [sizeOf(shape)] }));
  return units.reduce(
    (sum, unit) => sum + Object.values(statesOf(optim, unit)).reduce((bytes, type) => bytes + bytesOf(type), 0),
    0,
  );
}

/**
 * @param state gives the parameter, or what is kept of it, of the unit
 * @param hyper f32 [8], of `hyperOf`
 * @param norm f32 [1], the squared global norm of all gradients
 */
export function update(
  optim: Optim,
  unit: Unit,
  state: (name: string, type: TensorType) => Value,
  gradient: Value,
  hyper: Value,
  norm: Value,
  attributes: { decay: boolean },
): void {
  const kept = Object.entries(statesOf(optim, unit)).map(([name, type]) => [name, state(name, type)] as const);
  const parameter = state('parameter', f32(unit.shape));
  OPTIMIZERS[optim].update(parameter, Object.fromEntries(kept), gradient, hyper, norm, attributes);
}

export interface OptimizerSettings {
  /** Default: adamw_torch. */
  readonly optim?: Optim;
  readonly adam_beta1: number;
  readonly adam_beta2: number;
  readonly adam_epsilon: number;
  readonly weight_decay: number;
  readonly max_grad_norm: number;
}

/** The settings of step t, the first being 1, in the order that updates take them. */
export function hyperOf(settings: OptimizerSettings, rate: number, t: number): Float32Array {
  const { optim = 'adamw_torch', adam_beta1, adam_beta2, adam_epsilon, weight_decay, max_grad_norm } = settings;
  const corrections = OPTIMIZERS[optim].corrections?.(t) ?? [1 - adam_beta1 ** t, 1 - adam_beta2 ** t];
  return Float32Array.of(rate, adam_beta1, adam_beta2, adam_epsilon, weight_decay, ...corrections, max_grad_norm);
}
