/** Training steps as the suites time them: the trainer itself, on weights and words of noise. */
import type { Device } from '../../engine/run/device.ts';
import type { DecoderOptions } from '../../models/decoder.ts';
import type { MicroBatch, TeacherBatch } from '../../train/batch.ts';
import type { BatchShape, Objective, StepModel } from '../../train/step-graphs.ts';
import { Trainer } from '../../train/trainer.ts';
import { randomWeights } from './shapes.ts';

/** Steps after the first stop once they took this long; one is timed in any case, three at most. */
const BUDGET_MS = 20_000;
const MOST_STEPS = 3;

export function benchTrainer(
  device: Device,
  model: StepModel,
  objective: Objective,
  shape: BatchShape,
  fp16 = false,
): Promise<Trainer> {
  return Trainer.create(
    {
      device,
      model,
      objective,
      optimizer: { adam_beta1: 0.9, adam_beta2: 0.999, adam_epsilon: 1e-8, weight_decay: 0, max_grad_norm: 1 },
      schedule: { learning_rate: 1e-4, lr_scheduler_type: 'constant', warmup_steps: 0, total_steps: 10 },
      seed: 1,
      trainShapes: [shape],
      evalShapes: [],
      fp16,
      gradient_accumulation_steps: 1,
    },
    async (place) => randomWeights(device, model.options, place),
  );
}

export interface Steps {
  readonly trainer: Trainer;
  readonly batch: MicroBatch;
  readonly teacher?: TeacherBatch;
  readonly tell: (words: string) => void;
}
export interface StepTime {
  readonly ms: number;
  /** How many of them JavaScript took. */
  readonly javascript_ms: number;
}

/** The best of a few steps after a first one. */
export async function stepsOf(steps: Steps): Promise<StepTime> {
  const [time] = await stepsInTurn([steps]);
  return time!;
}

/**
 * The same of several trainers, a step of each in turn: what else a machine does, or how warm it has become, meets what is
 * compared alike.
 */
export async function stepsInTurn(all: readonly Steps[]): Promise<StepTime[]> {
  for (const steps of all) if (steps.trainer.step === 0) await timed(steps);
  const least = all.map((): StepTime => ({ ms: Infinity, javascript_ms: 0 }));
  let spent = 0;
  for (let i = 0; i < 1 || (i < MOST_STEPS && spent < BUDGET_MS * all.length); i++)
    for (const [at, steps] of all.entries()) {
      const time = await timed(steps);
      spent += time.ms;
      if (time.ms < least[at]!.ms) least[at] = time;
    }
  return least;
}

async function timed({ trainer, batch, teacher, tell }: Steps): Promise<StepTime> {
  const start = performance.now();
  const result = trainer.submitStep([batch], [teacher]);
  const javascript_ms = performance.now() - start;
  await result;
  const ms = performance.now() - start;
  tell(`${trainer.step === 1 ? 'first step' : `step ${trainer.step}`} ${(ms / 1000).toFixed(1)} s`);
  return { ms, javascript_ms };
}

export function batchOf({ vocab_size }: DecoderOptions, { rows, length }: BatchShape): MicroBatch {
  const ids = Int32Array.from({ length: rows * length }, (_, i) => (i * 7919) % vocab_size);
  return {
    rows,
    length,
    input_ids: ids,
    labels: ids,
    position_ids: Int32Array.from(ids, (_, i) => i % length),
    segment_ids: new Int32Array(ids.length).fill(1),
    filled_rows: rows,
  };
}
