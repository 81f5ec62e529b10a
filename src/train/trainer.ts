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
import { FlatParameters } from './flat-parameters.ts';
import { hyperOf, type OptimizerSettings } from './optimizers.ts';
import { LossScaler } from './loss-scaler.ts';
import { learningRate, type Schedule } from './schedule.ts';
import { normStep, updateStep, type BatchShape, type Objective, type StepModel } from './step-graphs.ts';
import { planTraining, plansOf, type StepChoices, type TrainPlan } from './train-plan.ts';

export interface TrainerSetup extends StepChoices {
  readonly device: Device;
  readonly model: StepModel;
  readonly objective: Objective;
  readonly optimizer: OptimizerSettings;
  readonly schedule: Schedule;
  readonly seed: number;
  /** All shapes that batches will have. */
  readonly trainShapes: readonly BatchShape[];
  readonly evalShapes: readonly BatchShape[];
}

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

const alone = <T>(one: T): T[] => [one];

/** In a checkpoint, beside the tensors on the device. */
const LOSS_SCALE = 'loss_scale';

export class Trainer {
  step = 0;
  private readonly arena: Arena;
  private readonly training = new Map<string, Program>();
  private evaluation!: Evaluator;
  /** Of accumulated gradients; undefined with the optimiser in the backward pass. */
  private update: Program | undefined;
  /** Of accumulated gradients, with fp16 only: the norm that decides whether there is an update, and the scale. */
  private norm: Program | undefined;
  /** With the optimiser in the backward pass: what runs before it where the norm is needed first. */
  private readonly norms = new Map<string, Program>();
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
    const { optim = 'adamw_torch', max_grad_norm } = setup.optimizer;
    const options = { ...setup, optim, max_grad_norm };
    const trainPlan = planTraining(device.limits, model, objective, setup.trainShapes, options);
    const accumulates = !trainPlan.optimizer_in_bwd;
    const flat = await FlatParameters.create(device, trainPlan.trainables, optim, { accumulates });
    const loaded = await load((name) => flat.parameters.get(name));
    const tensors = new Map([...loaded, ...flat.parameters]);
    for (const [name, tensor] of flat.gradients) tensors.set(`gradient.${name}`, tensor);
    for (const [name, tensor] of flat.parameters) tensors.set(`parameter.${name}`, tensor);
    for (const [name, tensor] of flat.states) tensors.set(name, tensor);
    flat.shards.forEach((shard, i) => {
      tensors.set(`parameter.${i}`, shard.parameter);
      if (shard.gradient) tensors.set(`gradient.${i}`, shard.gradient);
    });
    if (flat.norm_squared) tensors.set('norm_squared', flat.norm_squared);

    const trainer = new Trainer(setup, flat, trainPlan, tensors);
    const updatePlan = accumulates ? plan(updateStep(flat.shards, optim), device.limits) : undefined;
    const normPlan = accumulates && setup.fp16 ? plan(normStep(flat.shards), device.limits) : undefined;
    for (const one of [...trainPlan.plans.flatMap(plansOf), updatePlan, normPlan])
      if (one) trainer.arena.reserve(one.arenas);
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
    for (const { shape, plan, norm } of trainPlan.plans) {
      trainer.training.set(keyOf(shape), await compile(plan));
      if (norm) trainer.norms.set(keyOf(shape), await compile(norm));
    }
    if (updatePlan) trainer.update = await compile(updatePlan);
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
    const { rate, hyper } = this.settingsOf(step);
    if (this.update) {
      const micro = this.accumulate(prepared, teachers, step, 1);
      return this.collect(step + 1, rate, prepared, micro, this.update.run({ hyper }));
    }
    const { inputs, norm, update } = this.inBackward(prepared, teachers, step, 1);
    const normed = norm?.run(inputs);
    const updated = update.run({ ...inputs, hyper });
    return this.collect(step + 1, rate, prepared, updated.then(alone), normed ?? updated);
  }

  private async submitScaled(
    scaler: LossScaler,
    prepared: readonly PreparedBatch[],
    teachers: readonly (TeacherBatch | undefined)[],
    step: number,
  ): Promise<StepResult> {
    const { scale } = scaler;
    const { rate, hyper } = this.settingsOf(step - scaler.skipped);
    const inBackward = this.update ? undefined : this.inBackward(prepared, teachers, step, scale);
    const micro = inBackward
      ? inBackward.norm!.run(inBackward.inputs).then(alone)
      : this.accumulate(prepared, teachers, step, scale);
    micro.catch(() => undefined); // `collect` tells; the norm may fail first
    const found = inBackward ? (await micro)[0]! : await this.norm!.run({});
    const finite = Number.isFinite(found.get('norm_squared')![0]!);
    scaler.update(finite);
    if (scaler.exhausted) throw new EngineError('half-overflow', `step ${step + 1}`);
    const updated = finite
      ? (inBackward?.update.run({ ...inBackward.inputs, hyper }) ?? this.update!.run({ hyper })).then(() => found)
      : Promise.resolve(undefined);
    return this.collect(step + 1, rate, prepared, micro, updated, scale);
  }

  /** The programs of a step with the optimiser in its backward pass, and what both are given. */
  private inBackward(
    prepared: readonly PreparedBatch[],
    teachers: readonly (TeacherBatch | undefined)[],
    step: number,
    scale: number,
  ): { inputs: Record<string, HostArray>; norm: Program | undefined; update: Program } {
    const [one, ...more] = prepared;
    if (!one || more.length > 0) throw new RangeError('optimizer_in_bwd takes one micro-batch a step');
    return {
      inputs: this.inputsOfStep(one, teachers[0], one.counted, step, 0, scale),
      norm: this.norms.get(keyOf(one.batch)),
      update: this.programFor(one.batch),
    };
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

  /** Where the time of a micro-batch's step goes. Leaves gradients or changed weights behind: for measuring only. */
  profile(batch: MicroBatch, teacher: TeacherBatch | undefined, least_ms: number): Promise<ProfileLine[]> {
    const one = this.prepare(batch);
    const inputs = this.inputsOfStep(one, teacher, one.counted, 0, 0, this.scaler?.scale ?? 1);
    return this.programFor(one.batch).profile({ ...inputs, hyper: this.settingsOf(0).hyper }, least_ms);
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
    for (const program of [...this.training.values(), ...this.norms.values(), this.update, this.norm]) program?.free();
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
      take: Float32Array.of(1 / scale),
      seed: Int32Array.of(this.setup.seed, (step * 65536 + micro) | 0),
    };
  }

  private async collect(
    step: number,
    rate: number,
    prepared: readonly PreparedBatch[],
    micro: Promise<Map<string, HostArray>[]>,
    /** With the norm of the gradients; undefined where nothing was updated. */
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
