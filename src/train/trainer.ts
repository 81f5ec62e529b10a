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
import { Evaluator, inputsOf, keyOf, sumsOf, type EvalResult } from './evaluator.ts';
import { FlatParameters, type Trainable } from './flat-parameters.ts';
import { hyperOf, stateBytes, type Optim, type OptimizerSettings } from './optimizers.ts';
import { LossScaler } from './loss-scaler.ts';
import { learningRate, type Schedule } from './schedule.ts';
import { normStep, trainingStep, updateStep, type BatchShape, type Objective, type StepModel } from './step-graphs.ts';

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
  /** Activations wait for the backward pass in 16 bits, and the loss is scaled. */
  readonly fp16?: boolean;
}

/** Whether layers are computed again in the backward pass; null: where the step would not fit the device otherwise. */
export type GradientCheckpointing = boolean | null;

/** Means as TRL's SFTTrainer logs them. */
export interface StepResult {
  readonly step: number;
  readonly loss: number;
  /** 0 where the step was skipped. */
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
  /** The gradients of a scaled loss overflowed, and the step changed nothing. */
  readonly skipped?: true;
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
  /** The floor under that: weights, optimiser, and what the backward pass must find of the forward pass. */
  readonly least_bytes: number;
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
  options: Pick<TrainerSetup, 'gradient_checkpointing' | 'fp16'> & { readonly optim?: Optim } = {},
): TrainPlan {
  const { optim = 'adamw_torch', gradient_checkpointing = null, fp16 } = options;
  if (gradient_checkpointing === null) {
    const planned = (gradient_checkpointing: boolean): TrainPlan =>
      planTraining(limits, model, objective, shapes, { ...options, gradient_checkpointing });
    const kept = planned(false);
    const fits = kept.plans.every((one) => one.plan.memory.arena <= limits.maxBufferSize);
    return fits ? kept : planned(true);
  }
  let trainables: readonly Trainable[] = [];
  const plans = shapes.map((shape) => {
    const step = trainingStep(model, objective, shape, { gradient_checkpointing, fp16 });
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
    least_bytes: weights_bytes + optimizer_bytes + largest((one) => one.saved),
    flops: largest((one) => one.flops),
  };
}

/** In a checkpoint, beside the tensors on the device. */
const LOSS_SCALE = 'loss_scale';

export class Trainer {
  step = 0;
  private readonly arena: Arena;
  private readonly training = new Map<string, Program>();
  private evaluation!: Evaluator;
  private update!: Program;
  /** With fp16 only: the norm that decides whether there is an update, and the scale. */
  private norm: Program | undefined;
  private readonly scaler: LossScaler | undefined;
  /** The step before, where the next one's scale and number depend on it. */
  private before: Promise<unknown> = Promise.resolve();

  private constructor(
    private readonly setup: TrainerSetup,
    readonly flat: FlatParameters,
    readonly trainPlan: TrainPlan,
    private readonly tensors: ReadonlyMap<string, DeviceTensor>,
  ) {
    this.arena = new Arena(setup.device);
    if (setup.fp16) this.scaler = new LossScaler();
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
    const trainPlan = planTraining(device.limits, model, objective, setup.trainShapes, { ...setup, optim });
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
    const updatePlan = plan(updateStep(flat.shards, optim), device.limits);
    const normPlan = setup.fp16 ? plan(normStep(flat.shards), device.limits) : undefined;
    for (const one of [...trainPlan.plans.map(({ plan }) => plan), updatePlan, ...(normPlan ? [normPlan] : [])])
      trainer.arena.reserve(one.arenas);
    // before the others are bound: its needs may make the arena grow
    trainer.evaluation = await Evaluator.create(
      device,
      model,
      objective,
      setup.evalShapes,
      tensors,
      trainer.arena,
      onProgress,
    );
    const compile = (one: Plan): Promise<Program> => Program.create(device, one, tensors, trainer.arena, onProgress);
    for (const { shape, plan } of trainPlan.plans) trainer.training.set(keyOf(shape), await compile(plan));
    trainer.update = await compile(updatePlan);
    if (normPlan) trainer.norm = await compile(normPlan);
    return trainer;
  }

  /**
   * One optimiser step over its micro-batches. Everything is submitted before this returns; the numbers come when the
   * GPU has them, so a caller may submit the next step first. With fp16 a step waits for the one before it: torch's
   * GradScaler reads the same one number back.
   */
  submitStep(batches: readonly MicroBatch[], teachers: readonly (TeacherBatch | undefined)[]): Promise<StepResult> {
    const prepared = batches.map((batch) => this.prepare(batch));
    const step = this.step++;
    if (!this.scaler) return this.submit(prepared, teachers, step);
    const result = this.before.then(() => this.submitScaled(this.scaler!, prepared, teachers, step));
    // after a fault nothing more is submitted
    this.before = result;
    return result;
  }

  private submit(
    prepared: readonly PreparedBatch[],
    teachers: readonly (TeacherBatch | undefined)[],
    step: number,
  ): Promise<StepResult> {
    const micro = this.accumulate(prepared, teachers, step, 1);
    const { rate, hyper } = this.settingsOf(step);
    return this.collect(step + 1, rate, prepared, micro, this.update.run({ hyper }));
  }

  private async submitScaled(
    scaler: LossScaler,
    prepared: readonly PreparedBatch[],
    teachers: readonly (TeacherBatch | undefined)[],
    step: number,
  ): Promise<StepResult> {
    const { scale } = scaler;
    const { rate, hyper } = this.settingsOf(step - scaler.skipped);
    const micro = this.accumulate(prepared, teachers, step, scale);
    micro.catch(() => undefined); // `collect` tells; the norm may fail first
    const found = await this.norm!.run({});
    const finite = Number.isFinite(found.get('norm_squared')![0]!);
    scaler.update(finite);
    if (scaler.exhausted) throw new EngineError('half-overflow', `step ${step + 1}`);
    const updated = finite ? this.update.run({ hyper }) : Promise.resolve(undefined);
    return this.collect(step + 1, rate, prepared, micro, updated, scale);
  }

  /** The gradients of a step's micro-batches, summed on the device. */
  private accumulate(
    prepared: readonly PreparedBatch[],
    teachers: readonly (TeacherBatch | undefined)[],
    step: number,
    scale: number,
  ): Promise<Map<string, HostArray>[]> {
    const counted = prepared.reduce((sum, one) => sum + one.counted, 0);
    return Promise.all(
      prepared.map((one, i) =>
        this.programFor(one.batch).run(this.inputsOfStep(one, teachers[i], counted, step, i, scale)),
      ),
    );
  }

  /** @param done steps that the optimiser has seen */
  private settingsOf(done: number): { rate: number; hyper: Float32Array } {
    const rate = learningRate(this.setup.schedule, done);
    return { rate, hyper: hyperOf(this.setup.optimizer, rate, done + 1) };
  }

  /** As `Evaluator.evaluate`, with the weights as they are now. */
  evaluate(
    batches: readonly MicroBatch[],
    teacherOf: (batch: MicroBatch) => Promise<TeacherBatch | undefined>,
  ): Promise<EvalResult> {
    return this.evaluation.evaluate(batches, teacherOf);
  }

  /** Where the time of a micro-batch's step goes. Leaves accumulated gradients behind: for measuring only. */
  profile(batch: MicroBatch, teacher: TeacherBatch | undefined, least_ms: number): Promise<ProfileLine[]> {
    const one = this.prepare(batch);
    const inputs = this.inputsOfStep(one, teacher, one.counted, 0, 0, this.scaler?.scale ?? 1);
    return this.programFor(one.batch).profile(inputs, least_ms);
  }

  /** Weights and moments, read back; the GPU has finished all submitted steps by then. */
  async state(): Promise<TrainerState> {
    const tensors: { name: string; data: Float32Array | Int32Array }[] = [];
    for (const [i, shard] of this.flat.shards.entries()) {
      for (const [part, tensor] of [['parameter', shard.parameter] as const, ...shard.states]) {
        tensors.push({ name: `${part}.${i}`, data: await this.setup.device.read(tensor) });
      }
    }
    if (this.scaler) tensors.push({ name: LOSS_SCALE, data: this.scaler.state });
    return { step: this.step, tensors };
  }

  restore(state: TrainerState): void {
    for (const { name, data } of state.tensors) {
      if (name === LOSS_SCALE && this.scaler) {
        this.scaler.state = data;
        continue;
      }
      const tensor = this.tensors.get(name);
      if (!tensor) throw new RangeError(`the checkpoint holds '${name}', which this run does not train`);
      this.setup.device.write(tensor, data);
    }
    this.step = state.step;
    this.before = Promise.resolve();
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
    for (const program of [...this.training.values(), this.update]) program.free();
    this.norm?.free();
    this.evaluation.free();
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
    scale: number,
  ): Record<string, HostArray> {
    return {
      ...inputsOf(one, teacher, counted),
      token_scale: Float32Array.of(scale / Math.max(1, counted)),
      factors: Float32Array.of(micro === 0 ? 0 : 1, 1 / scale),
      seed: Int32Array.of(this.setup.seed, (step * 65536 + micro) | 0),
    };
  }

  private async collect(
    step: number,
    rate: number,
    prepared: readonly PreparedBatch[],
    micro: Promise<Map<string, HostArray>[]>,
    updated: Promise<Map<string, HostArray> | undefined>,
    scale = 1,
  ): Promise<StepResult> {
    const [outputs, update] = await Promise.all([micro, updated]);
    const norm = Math.sqrt(update?.get('norm_squared')![0] ?? 0);
    let loss = 0;
    let entropy = 0;
    let accuracy = 0;
    let ce = 0;
    let kl = 0;
    outputs.forEach((output, i) => {
      const { counted } = prepared[i]!;
      const sums = sumsOf(output.get('sums') as Float32Array);
      loss += output.get('loss')![0]! / scale;
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
      ...(!update && { skipped: true }),
    };
  }
}
