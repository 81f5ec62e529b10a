/**
 * Step 4: the student trained on the device, and what it has learned kept. A run whose training is over finds its result
 * again instead.
 */
import type { Batch } from '../../data/batch.ts';
import type { Shape } from '../../engine/graph/types.ts';
import type { Device, DeviceTensor } from '../../engine/run/device.ts';
import { MemorySource } from '../../formats/byte-source.ts';
import type { Keep } from '../../formats/keep.ts';
import type { LogitCache } from '../../formats/logit-cache.ts';
import { openSafetensors, writeSafetensors } from '../../formats/safetensors.ts';
import { loadParameters } from '../../models/on-device.ts';
import { newIds } from '../../models/trim-vocabulary.ts';
import { totalSteps, warmupSteps } from '../../recipe/derived.ts';
import type { Recipe } from '../../recipe/schema.ts';
import { CROSS_ENTROPY, type BatchShape, type Objective } from '../../train/step-graphs.ts';
import { planTraining } from '../../train/train-plan.ts';
import { Trainer, type TrainerSetup } from '../../train/trainer.ts';
import type { ActiveRun } from '../active-run.ts';
import { Checkpoints } from '../checkpoints.ts';
import { rememberPace, tuneFor } from '../known-device.ts';
import type { RunData } from './data.ts';
import { hashedWeights } from './hashed-model.ts';
import { sampleQuestions, teacherSamples, writeSamples } from './samples.ts';
import type { Student } from './student.ts';
import { teacherBatch, type CacheView } from './teacher-batch.ts';
import { Training } from './train.ts';

const RESULT = 'trained.safetensors';

/** What training has changed, by name; undefined while it is not over. */
export async function trainedWeights(keep: Keep): Promise<Map<string, Float32Array<ArrayBuffer>> | undefined> {
  const bytes = await keep.get(RESULT);
  if (!bytes) return undefined;
  const file = await openSafetensors(new MemorySource(RESULT, bytes));
  const trained = new Map<string, Float32Array<ArrayBuffer>>();
  for (const name of file.tensors.keys()) trained.set(name, await file.readF32(name));
  return trained;
}

/** @param foretold seconds of a step */
export async function trainStudent(
  run: ActiveRun,
  data: RunData,
  student: Student,
  cache: LogitCache | undefined,
  foretold: number,
): Promise<Map<string, Float32Array<ArrayBuffer>>> {
  const result = await trainedWeights(run.keep('result'));
  if (result) {
    run.progress('train', run.facts.of, run.facts.of, 'steps');
    return result;
  }
  const device = await run.device();
  const total_steps = totalSteps(data.train.count, run.recipe.training);
  const view = cache && viewOf(cache, run, student);
  const before = device.liveBytes;
  const trainer = await makeTrainer(run, device, data, student, objectiveOf(run.recipe, view), total_steps);
  const measured_bytes = device.liveBytes - before;
  if (trainer.trainPlan.gradient_checkpointing) {
    run.emit({ kind: 'fact', step: 'train', facts: { gradient_checkpointing: 'on' } });
  }
  try {
    const first = new Map<unknown, number>();
    const evaluation = [...data.eval.epoch()];
    for (const batch of evaluation) first.set(batch, data.prepared.train.length);
    const training = new Training(
      run,
      trainer,
      {
        total_steps,
        steps_per_epoch: data.train.stepsPerEpoch,
        batches: (step) => data.train.step(step),
        evaluation,
        teacher: async (batch) => view && teacherBatch(view, batch as Batch, first.get(batch) ?? 0),
      },
      (step) => look(run, device, trainer, data, student, step),
    );
    await training.go();
    const { secondsPerStep } = training;
    if (secondsPerStep) await rememberPace(run.host, device.adapter, secondsPerStep / foretold);
    const trained = await trainer.trained();
    await keepResult(run, trainer, student, trained, measured_bytes);
    return (await trainedWeights(run.keep('result')))!;
  } finally {
    trainer.free();
  }
}

export function objectiveOf(recipe: Recipe, view: Pick<CacheView, 'k'> | undefined): Objective {
  const { objective, temperature, alpha, tail, beta, skew } = recipe.distill;
  const { label_smoothing_factor } = recipe.training;
  if (!view) return { ...CROSS_ENTROPY, label_smoothing_factor };
  return { objective, temperature, alpha, tail, beta, skew, k: view.k, label_smoothing_factor };
}

export function shapesOf(
  data: Pick<RunData, 'train' | 'eval'>,
  recipe: Recipe,
): { train: BatchShape[]; eval: BatchShape[] } {
  const { per_device_train_batch_size, per_device_eval_batch_size } = recipe.training;
  const shapes = (rows: number, lengths: readonly number[]): BatchShape[] =>
    lengths.map((length) => ({ rows, length }));
  return {
    train: shapes(per_device_train_batch_size, data.train.lengths),
    eval: data.eval.count === 0 ? [] : shapes(per_device_eval_batch_size, data.eval.lengths),
  };
}

export function trainerSetup(
  recipe: Recipe,
  student: Pick<Student, 'step'>,
  objective: Objective,
  total_steps: number,
): Omit<TrainerSetup, 'device' | 'trainShapes' | 'evalShapes'> {
  const { training, seed } = recipe;
  return {
    model: student.step,
    objective,
    optimizer: training,
    gradient_checkpointing: training.gradient_checkpointing,
    fp16: training.fp16,
    optimizer_in_bwd: training.optimizer_in_bwd,
    gradient_accumulation_steps: training.gradient_accumulation_steps,
    schedule: {
      lr_scheduler_type: training.lr_scheduler_type,
      learning_rate: training.learning_rate,
      warmup_steps: warmupSteps(training, total_steps),
      total_steps,
    },
    seed,
  };
}

async function makeTrainer(
  run: ActiveRun,
  device: Device,
  data: RunData,
  student: Student,
  objective: Objective,
  total_steps: number,
): Promise<Trainer> {
  const shapes = shapesOf(data, run.recipe);
  const setup = trainerSetup(run.recipe, student, objective, total_steps);
  const { plans, flops } = planTraining(device.limits, setup.model, objective, shapes.train, run.recipe.training);
  const all = flops * total_steps * run.recipe.training.gradient_accumulation_steps;
  const tuned = await tuneFor(
    run.host,
    device,
    plans.map(({ plan }) => plan),
    all,
  );
  if (tuned > 0) run.emit({ kind: 'fact', step: 'train', facts: { tuned } });
  const { model, digest } = await hashedWeights(student.model);
  const trainer = await Trainer.create(
    { device, ...setup, trainShapes: shapes.train, evalShapes: shapes.eval },
    async (place: (name: string, shape: Shape) => DeviceTensor | undefined) => {
      const tensors = await loadParameters(device, model, place);
      for (const [name, { shape, data }] of student.adapter?.tensors ?? []) {
        device.write(place(name, shape)!, data);
      }
      return tensors;
    },
    (done, of) => run.progress('train', done, of, 'kernels'),
  );
  run.hash("student's weights", digest());
  return trainer;
}

function viewOf(cache: LogitCache, { recipe, vocabulary }: ActiveRun, student: Student): CacheView {
  const { vocab_size } = student.model.options;
  const { k, entries } = cache.header;
  return {
    cache,
    // of the largest fewer will do; of draws all must be looked at
    k: entries === 'sampling' ? Math.min(k, vocab_size) : Math.min(entriesOf(recipe, vocab_size), k),
    temperature: recipe.distill.temperature,
    vocab_size,
    ...(vocabulary && { ids: newIds(vocabulary) }),
  };
}

/** A student cannot have more of them than tokens. */
export const entriesOf = ({ distill }: Recipe, vocab_size: number): number => Math.min(distill.k, vocab_size);

/** The student's own words, beside the teacher's. */
async function look(
  run: ActiveRun,
  device: Device,
  trainer: Trainer,
  data: RunData,
  student: Student,
  step: number,
): Promise<void> {
  const questions = sampleQuestions(data);
  const { options } = student.model;
  const adapter = student.adapter ? { settings: student.adapter.settings, trainable: false } : undefined;
  const on = { options, tensors: trainer.deviceTensors, adapter, free: () => undefined };
  const [said, teacher] = [await writeSamples(device, on, student.model, data, questions), await teacherSamples(run)];
  said.forEach((student, i) => {
    const { text, expected } = questions[i]!;
    run.emit({ kind: 'sample', step, prompt: text, expected, teacher: teacher[i], student });
  });
}

async function keepResult(
  run: ActiveRun,
  trainer: Trainer,
  student: Student,
  trained: ReadonlyMap<string, Float32Array>,
  measured_bytes: number,
): Promise<void> {
  const evaluations = (await run.metrics()).filter((line) => line.eval_loss !== undefined);
  const seconds = run.seconds('train');
  const tokens = (await new Checkpoints(run.keep('checkpoints')).latest())?.progress.log.num_tokens ?? 0;
  await run.find('train', {
    steps: run.facts.of,
    tokens,
    tokens_per_second: tokens / Math.max(1e-3, seconds),
    eval_loss_before: evaluations.find((line) => line.step === 0)?.eval_loss,
    eval_loss_after: evaluations.at(-1)?.eval_loss,
    gradient_checkpointing: trainer.trainPlan.gradient_checkpointing,
    ...(trainer.trainPlan.optimizer_in_bwd && { optimizer_in_bwd: true }),
    planned_bytes: trainer.trainPlan.total_bytes,
    measured_bytes,
    seconds,
  });
  const shapes = new Map<string, readonly number[]>();
  for (const { name, shape } of trainer.flat.trainables) shapes.set(name, shape as readonly number[]);
  const bytes = writeSafetensors(
    [...trained].map(([name, data]) => ({
      name,
      dtype: 'F32',
      shape: shapes.get(name) ?? student.model.weights.tensors.get(name)!.shape,
      data: data as Float32Array<ArrayBuffer>,
    })),
  );
  await run.keep('result').put([{ key: RESULT, bytes }], { durable: true });
}
