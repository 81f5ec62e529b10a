/**
 * What a training step takes of a device, known before anything is allocated: its plans for every batch shape, bytes by purpose,
 * and work.
 */
import { sizeOf } from '../engine/graph/types.ts';
import { plan, type Plan } from '../engine/plan/plan.ts';
import type { Trainable } from './flat-parameters.ts';
import { stateBytes, type OptimizerSettings } from './optimizers.ts';
import {
  trainingStep,
  type BatchShape,
  type GradientUse,
  type NormUse,
  type Objective,
  type StepModel,
} from './step-graphs.ts';

/** Whether layers are computed again in the backward pass; null: where the step would not fit the device otherwise. */
export type GradientCheckpointing = boolean | null;

/** Whether no gradient outlives the backward pass; null: where that costs no work. */
export type OptimizerInBackward = boolean | null;

/** What is chosen of how a step runs. */
export interface StepChoices {
  readonly gradient_checkpointing?: GradientCheckpointing;
  /** Activations wait for the backward pass in 16 bits, and the loss is scaled. */
  readonly fp16?: boolean;
  /**
   * Weights are updated in the backward pass, and no gradient outlives its update; for steps of one micro-batch. Where the
   * update needs all gradients' norm beforehand (clipping, a scaled loss), forward and backward pass run twice. Null: where
   * that costs no work.
   */
  readonly optimizer_in_bwd?: OptimizerInBackward;
  /** Micro-batches of an optimiser step, if it is known. */
  readonly gradient_accumulation_steps?: number;
}

type PlanOptions = StepChoices & Partial<Pick<OptimizerSettings, 'optim' | 'max_grad_norm'>>;

export interface ShapePlan {
  readonly shape: BatchShape;
  readonly plan: Plan;
  /** What runs before it where the update needs the gradients' norm first. */
  readonly norm?: Plan;
}

/** Bytes by purpose and work of a training step, before anything is allocated. */
export interface TrainPlan {
  readonly plans: readonly ShapePlan[];
  readonly weights_bytes: number;
  /** Gradients, where they outlive the backward pass, and what the optimiser keeps. */
  readonly optimizer_bytes: number;
  readonly gradients_bytes: number;
  readonly activations_bytes: number;
  readonly total_bytes: number;
  /** The floor under that: weights, optimiser, and what the backward pass must find of the forward pass. */
  readonly least_bytes: number;
  /** FLOPs of a micro-batch of the largest shape, both times where it runs twice. */
  readonly flops: number;
  /** Read and written by the update, where it is not in the backward pass: weights and states both ways, the gradients twice. */
  readonly update_bytes: number;
  readonly trainables: readonly Trainable[];
  /** Whether the backward pass computes layers again. */
  readonly gradient_checkpointing: boolean;
  /** Whether weights are updated by the plans themselves, and not by a step apart that finds the sums of gradients. */
  readonly optimizer_in_bwd: boolean;
}

/**
 * WebGPU doesn't say how much memory a device has. What one buffer may hold is the nearest figure to it: temporaries that
 * need more than that are taken as a step that doesn't fit. The bits do not depend on the choice.
 */
export function planTraining(
  limits: Parameters<typeof plan>[1],
  model: StepModel,
  objective: Objective,
  shapes: readonly BatchShape[],
  options: PlanOptions = {},
): TrainPlan {
  const { optim = 'adamw_torch', gradient_checkpointing = null, fp16 } = options;
  const optimizer_in_bwd = options.optimizer_in_bwd ?? costsNoWork(model, options);
  const norm = normOf(options);
  if (gradient_checkpointing === null) {
    const planned = (gradient_checkpointing: boolean): TrainPlan =>
      planTraining(limits, model, objective, shapes, { ...options, gradient_checkpointing });
    const kept = planned(false);
    // gradients that wait lie among the temporaries, and would else have buffers of their own
    const waiting = optimizer_in_bwd && norm === 'waited' ? bytesOf(kept.trainables) : 0;
    const fits = kept.plans.every((one) => one.plan.memory.arena - waiting <= limits.maxBufferSize);
    return fits ? kept : planned(true);
  }
  let trainables: readonly Trainable[] = [];
  const plans = shapes.map((shape) => {
    const planOf = (use: GradientUse): Plan => {
      const step = trainingStep(model, objective, shape, { gradient_checkpointing, fp16 }, use);
      trainables = step.trainables;
      return plan(step.graph, limits);
    };
    if (!optimizer_in_bwd) return { shape, plan: planOf('accumulate') };
    return { shape, plan: planOf({ optim, norm }), ...(norm === 'given' && { norm: planOf('norm') }) };
  });
  const trained = bytesOf(trainables);
  const all = plans.flatMap(plansOf);
  const largest = (pick: (plan: Plan) => number): number => Math.max(0, ...all.map(pick));
  const weights_bytes = largest((one) => one.memory.parameters);
  const gradients_bytes = optimizer_in_bwd ? 0 : trained;
  const states_bytes = stateBytes(optim, trainables);
  const optimizer_bytes = gradients_bytes + states_bytes;
  const activations_bytes =
    largest((one) => one.memory.arena) + all.reduce((sum, one) => sum + one.memory.inputs + one.memory.outputs, 0);
  return {
    plans,
    trainables,
    gradient_checkpointing,
    optimizer_in_bwd,
    weights_bytes,
    optimizer_bytes,
    gradients_bytes,
    activations_bytes,
    total_bytes: weights_bytes + optimizer_bytes + activations_bytes,
    least_bytes: weights_bytes + optimizer_bytes + largest((one) => one.saved),
    update_bytes: optimizer_in_bwd ? 0 : 2 * (trained + states_bytes + gradients_bytes),
    flops: Math.max(0, ...plans.map((one) => plansOf(one).reduce((sum, { flops }) => sum + flops, 0))),
  };
}

/** In the order they run. */
export const plansOf = ({ norm, plan }: ShapePlan): Plan[] => (norm ? [norm, plan] : [plan]);

/**
 * A weight's gradient needs no memory of its own where it is not summed over micro-batches: until the norm is known all of them
 * find room where activations lay. Adapters keep theirs: they are small, and hundreds of small updates cost more than a few large
 * ones. Whether a scaled loss gave finite gradients is told to JavaScript, between two steps.
 */
const costsNoWork = ({ adapter }: StepModel, { fp16, gradient_accumulation_steps }: PlanOptions): boolean =>
  gradient_accumulation_steps === 1 && !fp16 && !adapter?.trainable;

/** Clipping has to know how long the gradients are, and a scaled loss whether they are finite, before anything is updated. */
const normOf = ({ fp16, max_grad_norm = 0, optimizer_in_bwd }: PlanOptions): NormUse => {
  if (!fp16 && max_grad_norm === 0) return 'unused';
  return optimizer_in_bwd === true ? 'given' : 'waited';
};

const bytesOf = (trainables: readonly Trainable[]): number =>
  trainables.reduce((sum, { shape }) => sum + 4 * sizeOf(shape), 0);
