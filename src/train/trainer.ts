/**
 * One run of optimiser steps on one device: graphs compiled for the planned batch shapes, then replayed.
 *
 * The trainer knows steps, not files: who drives it (job/) hands in batches, keeps checkpoints (`state`, `restore`) and
 * decides about pauses. The same device, settings and batches give the same bits, resumed or not: everything a step
 * depends on is the weights, the moments and the step's number.
 */
import type { Shape } from '../engine/graph/types.ts';
import { EngineError } from '../engine/errors.ts';
import { plan, type Plan } from '../engine/plan/plan.ts';
import type { Device, DeviceTensor } from '../engine/run/device.ts';
import { Arena, Program, type HostArray, type ProfileLine } from '../engine/run/program.ts';
import { isEncoder } from '../models/architectures/index.ts';
import { prepare, type MicroBatch, type PreparedBatch, type TeacherBatch } from './batch.ts';
import { FlatParameters, type Trainable } from './flat-parameters.ts';
import { hyperOf, stateBytes, type Optim, type OptimizerSettings } from './optimizers.ts';
import { learningRate, type Schedule } from './schedule.ts';
import {
  evaluationStep,
  type SUMS,
  trainingStep,
  updateStep,
  type BatchShape,
  type Objective,
  type StepModel,
} from './step-graphs.ts';

export interface TrainerSetup {
  readonly device: Device;
  readonly model: StepModel;
  readonly objective: Objective;
  readonly optimizer: OptimizerSettings;
  readonly schedule: Schedule;
  readonly seed: number;
  /** All shapes that batches will have. */
  readonly trainShapes: readonly BatchShape[];
  readonly evalShapes: readonly BatchShape[];
  readonly gradient_checkpointing?: GradientCheckpointing;
}

/** Whether layers are computed again in the backward pass; null: where the step would not fit the device otherwise. */
export type GradientCheckpointing = boolean | null;

/** Means as TRL's SFTTrainer logs them. */
export interface StepResult {
  readonly step: number;
  readonly loss: number;
  readonly grad_norm: number;
  readonly learning_rate: number;
  /** Means over micro-batches of each one's mean. */
  readonly entropy: number;
  readonly mean_token_accuracy: number;
  /** Means over the counted tokens of the step. */
  readonly ce: number;
  readonly kl: number;
  /** Tokens that are not padding. */
  readonly tokens: number;
}

export interface EvalResult {
  readonly eval_loss: number;
  readonly eval_ce: number;
  readonly eval_kl: number;
  readonly eval_entropy: number;
  readonly eval_mean_token_accuracy: number;
}

/** All that a resumed run needs besides the recipe: the weights, the moments and how many steps they have seen. */
export interface TrainerState {
  readonly step: number;
  readonly tensors: readonly { readonly name: string; readonly data: Float32Array | Int32Array }[];
}

/** Bytes by purpose and work of a training step, before anything is allocated. */
export interface TrainPlan {
  readonly plans: readonly { readonly shape: BatchShape; readonly plan: Plan }[];
  readonly weights_bytes: number;
  readonly optimizer_bytes: number;
  readonly activations_bytes: number;
  readonly total_bytes: number;
  /** FLOPs of a micro-batch of the largest shape. */
  readonly flops: number;
  readonly trainables: readonly Trainable[];
  /** Whether the backward pass computes layers again. */
  readonly gradient_checkpointing: boolean;
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
  optim: Optim = 'adamw_torch',
  gradient_checkpointing: GradientCheckpointing = null,
): TrainPlan {
  if (gradient_checkpointing === null) {
    const kept = planTraining(limits, model, objective, shapes, optim, false);
    const fits = kept.plans.every((one) => one.plan.memory.arena <= limits.maxBufferSize);
    return fits ? kept : planTraining(limits, model, objective, shapes, optim, true);
  }
  let trainables: readonly Trainable[] = [];
  const plans = shapes.map((shape) => {
    const step = trainingStep(model, objective, shape, gradient_checkpointing);
    trainables = step.trainables;
    return { shape, plan: plan(step.graph, limits) };
  });
  const trained = trainables.reduce(
    (sum, { shape }) => sum + 4 * shape.reduce<number>((a, b) => a * (b as number), 1),
    0,
  );
  const largest = (pick: (plan: Plan) => number): number => Math.max(0, ...plans.map((one) => pick(one.plan)));
  const weights_bytes = largest((one) => one.memory.parameters);
  const optimizer_bytes = trained + stateBytes(optim, trainables); // the gradient, and what the optimiser keeps
  const activations_bytes =
    largest((one) => one.memory.arena) +
    plans.reduce((sum, one) => sum + one.plan.memory.inputs + one.plan.memory.outputs, 0);
  return {
    plans,
    trainables,
    gradient_checkpointing,
    weights_bytes,
    optimizer_bytes,
    activations_bytes,
    total_bytes: weights_bytes + optimizer_bytes + activations_bytes,
    flops: largest((one) => one.flops),
  };
}

export class Trainer {
  step = 0;
  private readonly arena: Arena;
  private readonly training = new Map<string, Program>();
  private readonly evaluation = new Map<string, Program>();
  private update!: Program;

  private constructor(
    private readonly setup: TrainerSetup,
    readonly flat: FlatParameters,
    readonly trainPlan: TrainPlan,
    private readonly tensors: ReadonlyMap<string, DeviceTensor>,
  ) {
    this.arena = new Arena(setup.device);
  }

  /**
   * @param load gives every frozen parameter a tensor, and fills the trained ones, which lie where `place` says
   */
  static async create(
    setup: TrainerSetup,
    load: (
      place: (name: string, shape: Shape) => DeviceTensor | undefined,
    ) => Promise<ReadonlyMap<string, DeviceTensor>>,
    onProgress?: (done: number, of: number) => void,
  ): Promise<Trainer> {
    const { device, model, objective } = setup;
    const { optim = 'adamw_torch' } = setup.optimizer;
    const trainPlan = planTraining(
      device.limits,
      model,
      objective,
      setup.trainShapes,
      optim,
      setup.gradient_checkpointing,
    );
    const flat = await FlatParameters.create(device, trainPlan.trainables, optim);
    const loaded = await load((name) => flat.parameters.get(name));
    const tensors = new Map([...loaded, ...flat.parameters]);
    for (const [name, tensor] of flat.gradients) tensors.set(`gradient.${name}`, tensor);
    for (const [name, tensor] of flat.parameters) tensors.set(`parameter.${name}`, tensor);
    for (const [name, tensor] of flat.states) tensors.set(name, tensor);
    flat.shards.forEach((shard, i) => {
      for (const part of ['parameter', 'gradient'] as const) tensors.set(`${part}.${i}`, shard[part]);
    });

    const trainer = new Trainer(setup, flat, trainPlan, tensors);
    const evalPlans = setup.evalShapes.map((shape) => ({
      shape,
      plan: plan(evaluationStep(model, objective, shape), device.limits),
    }));
    const updatePlan = plan(updateStep(flat.shards, optim), device.limits);
    for (const one of [...trainPlan.plans, ...evalPlans, { plan: updatePlan }]) trainer.arena.reserve(one.plan.arenas);
    const compile = (one: Plan): Promise<Program> => Program.create(device, one, tensors, trainer.arena, onProgress);
    for (const { shape, plan } of trainPlan.plans) trainer.training.set(keyOf(shape), await compile(plan));
    for (const { shape, plan } of evalPlans) trainer.evaluation.set(keyOf(shape), await compile(plan));
    trainer.update = await compile(updatePlan);
    return trainer;
  }

  /**
   * One optimiser step over its micro-batches. Everything is submitted before this returns; the numbers come when the
   * GPU has them, so a caller may submit the next step first.
   */
  submitStep(batches: readonly MicroBatch[], teachers: readonly (TeacherBatch | undefined)[]): Promise<StepResult> {
    const prepared = batches.map((batch) => this.prepare(batch));
    const counted = prepared.reduce((sum, one) => sum + one.counted, 0);
    const step = this.step++;
    const micro = prepared.map((one, i) =>
      this.programFor(one.batch).run(this.inputsOfStep(one, teachers[i], counted, step, i)),
    );
    const rate = learningRate(this.setup.schedule, step);
    const updated = this.update.run({ hyper: hyperOf(this.setup.optimizer, rate, step + 1) });
    return this.collect(step + 1, rate, prepared, Promise.all(micro), updated);
  }

  /** DESIGN §6: the mean over batches of each batch's token mean, weighted by the batch's rows. */
  async evaluate(
    batches: readonly MicroBatch[],
    teacherOf: (batch: MicroBatch) => Promise<TeacherBatch | undefined>,
  ): Promise<EvalResult> {
    const total = { loss: 0, rows: 0, ce: 0, kl: 0, entropy: 0, correct: 0, batches: 0, counted: 0 };
    for (const batch of batches) {
      const one = this.prepare(batch);
      if (one.counted === 0) continue;
      const program = this.evaluation.get(keyOf(batch));
      if (!program) throw new RangeError(`no program for an evaluation batch of ${batch.rows} x ${batch.length}`);
      const outputs = await program.run(inputsOf(one, await teacherOf(batch), one.counted));
      const sums = sumsOf(outputs.get('sums') as Float32Array);
      total.loss += batch.filled_rows * outputs.get('loss')![0]!;
      total.rows += batch.filled_rows;
      total.ce += sums.ce;
      total.kl += sums.kl;
      total.counted += one.counted;
      total.entropy += sums.entropy / one.counted;
      total.correct += sums.correct / one.counted;
      total.batches++;
    }
    return {
      eval_loss: total.loss / total.rows,
      eval_ce: total.ce / total.counted,
      eval_kl: total.kl / total.counted,
      eval_entropy: total.entropy / total.batches,
      eval_mean_token_accuracy: total.correct / total.batches,
    };
  }

  /** Where the time of a micro-batch's step goes. Leaves accumulated gradients behind: for measuring only. */
  profile(batch: MicroBatch, teacher: TeacherBatch | undefined, least_ms: number): Promise<ProfileLine[]> {
    const one = this.prepare(batch);
    return this.programFor(one.batch).profile(this.inputsOfStep(one, teacher, one.counted, 0, 0), least_ms);
  }

  /** Weights and moments, read back; the GPU has finished all submitted steps by then. */
  async state(): Promise<TrainerState> {
    const tensors: { name: string; data: Float32Array | Int32Array }[] = [];
    for (const [i, shard] of this.flat.shards.entries()) {
      for (const [part, tensor] of [['parameter', shard.parameter] as const, ...shard.states]) {
        tensors.push({ name: `${part}.${i}`, data: await this.setup.device.read(tensor) });
      }
    }
    return { step: this.step, tensors };
  }

  restore(state: TrainerState): void {
    for (const { name, data } of state.tensors) {
      const tensor = this.tensors.get(name);
      if (!tensor) throw new RangeError(`the checkpoint holds '${name}', which this run does not train`);
      this.setup.device.write(tensor, data);
    }
    this.step = state.step;
  }

  /** What was trained, by name. */
  async trained(): Promise<Map<string, Float32Array>> {
    const result = new Map<string, Float32Array>();
    for (const [name, tensor] of this.flat.parameters) result.set(name, await this.setup.device.readF32(tensor));
    return result;
  }

  /** Every weight as it is now, for evaluation and generation while training goes on. */
  get deviceTensors(): ReadonlyMap<string, DeviceTensor> {
    return this.tensors;
  }

  free(): void {
    for (const program of [...this.training.values(), ...this.evaluation.values(), this.update]) program.free();
    this.flat.free();
    this.arena.free();
  }

  private prepare(batch: MicroBatch): PreparedBatch {
    return prepare(batch, isEncoder(this.setup.model.options));
  }

  private programFor(batch: MicroBatch): Program {
    const program = this.training.get(keyOf(batch));
    if (!program) throw new RangeError(`no program for a batch of ${batch.rows} x ${batch.length}`);
    return program;
  }

  private inputsOfStep(
    one: PreparedBatch,
    teacher: TeacherBatch | undefined,
    counted: number,
    step: number,
    micro: number,
  ): Record<string, HostArray> {
    return {
      ...inputsOf(one, teacher, counted),
      keep: Float32Array.of(micro === 0 ? 0 : 1),
      seed: Int32Array.of(this.setup.seed, (step * 65536 + micro) | 0),
    };
  }

  private async collect(
    step: number,
    rate: number,
    prepared: readonly PreparedBatch[],
    micro: Promise<Map<string, HostArray>[]>,
    updated: Promise<Map<string, HostArray>>,
  ): Promise<StepResult> {
    const [outputs, update] = await Promise.all([micro, updated]);
    const norm = Math.sqrt(update.get('norm_squared')![0]!);
    let loss = 0;
    let entropy = 0;
    let accuracy = 0;
    let ce = 0;
    let kl = 0;
    outputs.forEach((output, i) => {
      const { counted } = prepared[i]!;
      const sums = sumsOf(output.get('sums') as Float32Array);
      loss += output.get('loss')![0]!;
      entropy += counted === 0 ? 0 : sums.entropy / counted / outputs.length;
      accuracy += counted === 0 ? 0 : sums.correct / counted / outputs.length;
      ce += sums.ce;
      kl += sums.kl;
    });
    if (!Number.isFinite(loss) || !Number.isFinite(norm)) throw new EngineError('not-a-number', `step ${step}`);
    const counted = Math.max(
      1,
      prepared.reduce((sum, one) => sum + one.counted, 0),
    );
    return {
      step,
      loss,
      grad_norm: norm,
      learning_rate: rate,
      entropy,
      mean_token_accuracy: accuracy,
      ce: ce / counted,
      kl: kl / counted,
      tokens: prepared.reduce((sum, one) => sum + one.attended, 0),
    };
  }
}

function inputsOf(one: PreparedBatch, teacher: TeacherBatch | undefined, counted: number): Record<string, HostArray> {
  return {
    ...one.inputs,
    token_scale: Float32Array.of(1 / Math.max(1, counted)),
    ...(teacher && { teacher_ids: teacher.ids, teacher_logits: teacher.logits, teacher_log_z: teacher.log_z }),
  };
}

function sumsOf(sums: Float32Array): Record<(typeof SUMS)[number], number> {
  return { ce: sums[0]!, kl: sums[1]!, entropy: sums[2]!, correct: sums[3]! };
}

function keyOf(shape: BatchShape): string {
  return `${shape.rows}x${shape.length}`;
}
