/** A small decoder that tests train for three steps, with an adapter and whole. */
import { sizeOf, type Shape } from '../engine/graph/types.ts';
import type { Device } from '../engine/run/device.ts';
import { noise, testDevice } from '../engine/testing.ts';
import { pack } from '../formats/pack-weights.ts';
import { baseParameters } from '../models/model.ts';
import type { MicroBatch } from './batch.ts';
import type { OptimizerSettings } from './optimizers.ts';
import { CROSS_ENTROPY, type StepModel } from './step-graphs.ts';
import { options } from './tiny-options.testing.ts';
import type { GradientCheckpointing, OptimizerInBackward, TrainPlan } from './train-plan.ts';
import { Trainer, type StepResult } from './trainer.ts';

export { options };
const lora = { r: 4, lora_alpha: 8, lora_dropout: 0.2, target_modules: ['q_proj', 'v_proj', 'down_proj'] };
export const MODELS: Record<string, StepModel> = {
  'an adapter with dropout': {
    options,
    adapter: { settings: { ...lora, use_rslora: false }, trainable: true },
    trainable: () => false,
  },
  'all weights': { options, adapter: null, trainable: () => true },
};
export const shape = { rows: 2, length: 32 };
function batchOf(vocab: number, rows: number): MicroBatch {
  const { length } = shape;
  const each = (value: (i: number) => number) => Int32Array.from({ length: rows * length }, (_, i) => value(i));
  return {
    rows,
    length,
    filled_rows: rows,
    input_ids: each((i) => (i * 37) % vocab),
    labels: each((i) => (i * 37) % vocab),
    position_ids: each((i) => i % length),
    segment_ids: each(() => 1),
  };
}

/** Vectors scale something: norms' weights, DoRA's magnitudes. */
const start = (shape: Shape, seed: number, gain = 1): Float32Array =>
  noise(sizeOf(shape), seed).map((x) => (shape.length === 1 ? gain * (1 + 0.1 * x) : 0.2 * x));

export interface Trained {
  readonly losses: readonly StepResult[];
  readonly weights: ReadonlyMap<string, Float32Array>;
  readonly trainPlan: TrainPlan;
  /** Bytes that the trainer allocated before its first step. */
  readonly measured: number;
}

interface Choices extends Partial<OptimizerSettings> {
  readonly on?: Device;
  readonly steps?: number;
  /** Of a batch. */
  readonly rows?: number;
  readonly fp16?: boolean;
  readonly optimizer_in_bwd?: OptimizerInBackward;
  readonly gradient_accumulation_steps?: number;
  /** Two, so that gradients are added up as well, where nothing else is said. */
  readonly microBatches?: number;
  /** How much larger the weights of norms are. */
  readonly gain?: number;
}

/** A trainer with weights of noise, and the batch that it learns from. */
export async function trainerOf(
  model: StepModel,
  gradient_checkpointing: GradientCheckpointing,
  choices: Choices = {},
): Promise<{ trainer: Trainer; batch: MicroBatch }> {
  const {
    on,
    steps = 3,
    rows = shape.rows,
    fp16,
    optimizer_in_bwd,
    gradient_accumulation_steps,
    gain = 1,
    ...optimizer
  } = choices;
  const device = on ?? (await testDevice());
  const { options } = model;
  const trainer = await Trainer.create(
    {
      device,
      model,
      objective: CROSS_ENTROPY,
      optimizer: {
        adam_beta1: 0.9,
        adam_beta2: 0.999,
        adam_epsilon: 1e-8,
        weight_decay: 0,
        max_grad_norm: 0,
        ...optimizer,
      },
      schedule: { lr_scheduler_type: 'constant', learning_rate: 1e-2, warmup_steps: 0, total_steps: steps },
      seed: 7,
      trainShapes: [{ ...shape, rows }],
      evalShapes: [],
      gradient_checkpointing,
      fp16,
      optimizer_in_bwd,
      gradient_accumulation_steps,
    },
    async (place) => {
      const tensors = new Map();
      let seed = 1;
      for (const [name, shape] of baseParameters(options)) {
        const data = start(shape, seed++, gain);
        const trained = place(name, shape);
        if (trained) device.write(trained, data);
        else {
          const dtype = options.held?.get(name) ?? 'f32';
          tensors.set(name, device.tensor({ shape, dtype }, dtype === 'f32' ? data : pack(dtype, data)));
        }
      }
      return tensors;
    },
  );
  const adapter = [...trainer.flat.parameters].filter(([name]) => name.includes('lora_'));
  adapter.forEach(([, tensor], i) => device.write(tensor, start(tensor.type.shape, 100 + i)));
  return { trainer, batch: batchOf(options.vocab_size, rows) };
}

export async function train(
  model: StepModel,
  gradient_checkpointing: GradientCheckpointing,
  choices: Choices = {},
): Promise<Trained> {
  const device = choices.on ?? (await testDevice());
  const before = device.liveBytes;
  const { trainer, batch } = await trainerOf(model, gradient_checkpointing, { ...choices, on: device });
  const measured = device.liveBytes - before;
  const losses = [];
  const batches = Array.from({ length: choices.microBatches ?? 2 }, () => batch);
  for (let step = 0; step < (choices.steps ?? 3); step++) losses.push(await trainer.submitStep(batches, []));
  const weights = await trainer.trained();
  const { trainPlan } = trainer;
  trainer.free();
  return { losses, weights, trainPlan, measured };
}
