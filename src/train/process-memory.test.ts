/**
 * The plan's bytes against the memory of the process itself: where the adapter computes on the CPU, its buffers are pages of this
 * process. Read from /proc, so on Linux alone. What else grows is what compiling the kernels leaves in the arenas of malloc, measured
 * between nothing and 60 MB: a step of 1.1 GB, so that it is not taken for the step's.
 */
import { existsSync, readFileSync } from 'node:fs';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { expect, it } from 'vitest';
import { testDevice } from '../engine/testing.ts';
import type { MicroBatch } from './batch.ts';
import { CROSS_ENTROPY, type StepModel } from './step-graphs.ts';
import { MODELS, options, train } from './testing.ts';
import { Trainer } from './trainer.ts';

const STATUS = '/proc/self/status';
setFlagsFromString('--expose-gc');
const collectGarbage = runInNewContext('gc') as () => void;

/** Pages of no file, less those of JavaScript's heap: when the collector gives those back is its own affair. */
function residentBytes(): number {
  collectGarbage();
  const anonymous = 1024 * Number(/^RssAnon:\s+(\d+)/m.exec(readFileSync(STATUS, 'utf8'))![1]);
  return anonymous - process.memoryUsage().heapTotal;
}

const vocab_size = 60_000;
const model: StepModel = {
  options: { ...options, vocab_size, hidden_size: 512, num_hidden_layers: 1, tie_word_embeddings: false },
  adapter: null,
  trainable: () => true,
};
const shape = { rows: 1, length: 16 };
const batch: MicroBatch = {
  ...shape,
  filled_rows: 1,
  input_ids: Int32Array.from({ length: 16 }, (_, i) => 1000 * i),
  labels: Int32Array.from({ length: 16 }, (_, i) => 1000 * i),
  position_ids: Int32Array.from({ length: 16 }, (_, i) => i),
  segment_ids: new Int32Array(16).fill(1),
};

it.runIf(existsSync(STATUS))(
  'a step takes the memory of the process that its plan says (within 10%; only where the adapter is on the CPU)',
  { timeout: 300_000 },
  async ({ skip }) => {
    const device = await testDevice();
    if (!device.adapter.software) skip('the memory of a GPU is not in this process');
    await train(MODELS['all weights']!, false, { steps: 1 }); // what a first step brings with it
    const [resident, live] = [residentBytes(), device.liveBytes];
    const trainer = await Trainer.create(
      {
        device,
        model,
        objective: CROSS_ENTROPY,
        optimizer: { adam_beta1: 0.9, adam_beta2: 0.999, adam_epsilon: 1e-8, weight_decay: 0, max_grad_norm: 1 },
        schedule: { lr_scheduler_type: 'constant', learning_rate: 1e-3, warmup_steps: 0, total_steps: 1 },
        seed: 1,
        trainShapes: [shape],
        evalShapes: [],
        gradient_checkpointing: false,
      },
      () => Promise.resolve(new Map()), // weights of zeros: no arrays of JavaScript's beside them
    );
    await trainer.submitStep([batch], []);
    const grown = residentBytes() - resident;
    const { total_bytes } = trainer.trainPlan;
    expect(total_bytes).toBeGreaterThan(1.1e9);
    expect((device.liveBytes - live) / total_bytes).toBeGreaterThan(0.95);
    expect((device.liveBytes - live) / total_bytes).toBeLessThan(1.05);
    expect(grown / total_bytes).toBeGreaterThan(0.9);
    expect(grown / total_bytes).toBeLessThan(1.1);
    trainer.free();
  },
);
