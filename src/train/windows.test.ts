/**
 * Training where tensors are larger than the device binds, here 104 KiB in place of 128 MiB: embedding (tied head), linear
 * layers, gradients and moments lie in windows. Every sum is made in the same order as without, so what is trained has the
 * same bits; only the norm of the gradients is added up shard by shard, and shards differ.
 */
import { beforeAll, describe, expect, it } from 'vitest';
import { nodeGpu } from '../cli/node-gpu.ts';
import type { PackedDType } from '../engine/graph/packing.ts';
import { Device } from '../engine/run/device.ts';
import { MODELS, options as small, train } from './testing.ts';
import type { Optim } from './optimizers.ts';
import type { StepModel } from './step-graphs.ts';

/** An embedding of 410 KB in seven windows (205 KB as f16 in three, 115 KB as int8 in two), linear layers of up to 262 KB. */
const options = {
  ...small,
  vocab_size: 400,
  hidden_size: 256,
  num_hidden_layers: 2,
  head_dim: 64,
  intermediate_size: 160,
};
const oneLayer = { ...options, num_hidden_layers: 1 };
const LIMITS = { maxStorageBufferBindingSize: 104 * 2 ** 10, maxBufferSize: 104 * 2 ** 10 };

let device: Device;
beforeAll(async () => {
  device = await Device.create(await nodeGpu(), LIMITS);
});

async function same(model: StepModel, optim?: Optim): Promise<void> {
  const wanted = await train(model, null, { optim, weight_decay: 0.1 });
  const got = await train(model, null, { optim, weight_decay: 0.1, on: device });
  for (const [i, step] of got.losses.entries()) {
    const { grad_norm, ...rest } = wanted.losses[i]!;
    expect(step).toEqual({ ...rest, grad_norm: expect.closeTo(grad_norm, 4) as number });
  }
  expect(new Set(got.weights.keys())).toEqual(new Set(wanted.weights.keys()));
  for (const [name, data] of wanted.weights) expect(got.weights.get(name), name).toEqual(data);
  expect(wanted.losses[2]!.loss).toBeLessThan(wanted.losses[0]!.loss);
}

describe('a model larger than a binding trains to the same bits', { timeout: 300_000 }, () => {
  it('all its weights', async () => same({ ...MODELS['all weights']!, options }));
  it.each(['lion_32bit', 'sgd', 'adafactor', 'adamw_8bit'] as const)('by %s', async (optim) =>
    same({ ...MODELS['all weights']!, options: oneLayer }, optim),
  );
  it('an adapter', async () => same({ ...MODELS['an adapter with dropout']!, options }));
  it.each([false, true])('DoRA on such a weight, which lies [in, out]: %s', async (conv1d) => {
    const { adapter, ...rest } = MODELS['an adapter with dropout']!;
    const settings = { ...adapter!.settings, use_dora: true };
    await same({ ...rest, options: { ...oneLayer, conv1d }, adapter: { settings, trainable: true } });
  });
  it('a pair on the head', async () => {
    const { adapter, ...rest } = MODELS['an adapter with dropout']!;
    const settings = { ...adapter!.settings, target_modules: ['q_proj', 'lm_head'] };
    await same({ ...rest, options: oneLayer, adapter: { settings, trainable: true } });
  });
  it.each(['f16', 'int8', 'int8_64', 'uint8_32'] as const)(
    'an adapter beside weights held as %s',
    async (dtype: PackedDType) => {
      const held = new Map([['model.embed_tokens.weight', dtype]]);
      await same({ ...MODELS['an adapter with dropout']!, options: { ...options, held } });
    },
  );
});
