/** Updating weights in the backward pass changes the memory of a step and, but for the order in which a norm is summed, no bit. */
import { describe, expect, it } from 'vitest';
import { Device } from '../engine/run/device.ts';
import { nodeGpu } from '../cli/node-gpu.ts';
import { testDevice } from '../engine/testing.ts';
import type { Optim } from './optimizers.ts';
import { CROSS_ENTROPY, type StepModel } from './step-graphs.ts';
import { MODELS, options, shape, train, trainerOf, type Trained } from './testing.ts';
import { planTraining } from './train-plan.ts';

const ONE = { microBatches: 1, weight_decay: 0.1 } as const;

function expectSame(got: Trained, wanted: Trained): void {
  for (const [i, { grad_norm, ...rest }] of wanted.losses.entries())
    expect(got.losses[i]).toEqual({ ...rest, grad_norm: expect.closeTo(grad_norm, 4) as number });
  expect(wanted.losses[2]!.loss).not.toBe(wanted.losses[0]!.loss);
  expect(got.weights.size).toBeGreaterThan(0);
  for (const [name, data] of wanted.weights) expect(got.weights.get(name), name).toEqual(data);
}

/** Largest difference of a weight, of the largest change that training made to one. */
function difference(got: Trained, wanted: Trained, start: Trained): number {
  let [largest, moved] = [0, 0];
  for (const [name, from] of start.weights)
    from.forEach((value, i) => {
      const to = wanted.weights.get(name)![i]!;
      largest = Math.max(largest, Math.abs(got.weights.get(name)![i]! - to));
      moved = Math.max(moved, Math.abs(to - value));
    });
  return largest / moved;
}

describe.each(Object.entries(MODELS))('the optimiser in the backward pass: %s', { timeout: 300_000 }, (name, model) => {
  it.each([false, true])('gives the same bits without clipping; layers computed again: %s', async (again) => {
    const kept = await train(model, again, ONE);
    const used = await train(model, again, { ...ONE, optimizer_in_bwd: true });
    expectSame(used, kept);
    for (const { trainPlan, measured } of [kept, used]) {
      expect(trainPlan.total_bytes / measured).toBeGreaterThan(0.8);
      expect(trainPlan.total_bytes / measured).toBeLessThan(1.25);
    }
    expect(kept.trainPlan.gradients_bytes).toBeGreaterThan(0);
    expect(used.trainPlan.gradients_bytes).toBe(0);
    if (name === 'all weights') expect(used.measured).toBeLessThan(kept.measured);
  });

  it('clips by the norm of all gradients, taken in a pass before', async () => {
    const clipped = { ...ONE, optim: 'sgd', max_grad_norm: 0.05 } as const;
    const start = await train(model, false, { ...clipped, steps: 0 });
    const kept = await train(model, false, clipped);
    const used = await train(model, false, { ...clipped, optimizer_in_bwd: true });
    const free = await train(model, false, { ...clipped, max_grad_norm: 0 });
    expect(kept.losses[0]!.grad_norm).toBeGreaterThan(2 * clipped.max_grad_norm);
    for (const [i, { grad_norm }] of kept.losses.entries())
      expect(used.losses[i]!.grad_norm / grad_norm).toBeCloseTo(1, 5);
    // the norms' sums differ by some roundings of 2^-24, and so do the three steps
    expect(difference(used, kept, start)).toBeLessThan(1e-5);
    expect(difference(free, kept, start)).toBeGreaterThan(0.1);
    // forward and backward pass run twice
    expect(used.trainPlan.flops / free.trainPlan.flops).toBeCloseTo(2, 1);
  });

  it('gives the bits of fp16 without clipping', async () => {
    const kept = await train(model, false, { ...ONE, fp16: true });
    expectSame(await train(model, false, { ...ONE, fp16: true, optimizer_in_bwd: true }), kept);
  });
});

const whole = MODELS['all weights']!;

describe('where nobody says so', { timeout: 300_000 }, () => {
  const one = { ...ONE, gradient_accumulation_steps: 1 };

  it('it is done where all weights are trained without clipping, to the same bits', async () => {
    const used = await train(whole, false, one);
    expectSame(used, await train(whole, false, { ...one, optimizer_in_bwd: false }));
    expect(used.trainPlan).toMatchObject({ optimizer_in_bwd: true, gradients_bytes: 0 });
  });

  it.each<Optim>(['adamw_torch', 'sgd', 'adafactor', 'adamw_8bit'])(
    'gradients wait for the norm among the temporaries where they are clipped, and nothing is computed twice: %s',
    async (optim) => {
      // Adam divides by a gradient's size: from the second step on, entries that are rounding alone go either way
      const clipped = { ...one, optim, max_grad_norm: 0.05, steps: optim === 'sgd' ? 3 : 1 };
      const start = await train(whole, false, { ...clipped, steps: 0 });
      const kept = await train(whole, false, { ...clipped, optimizer_in_bwd: false });
      const used = await train(whole, false, clipped);
      const free = await train(whole, false, { ...clipped, max_grad_norm: 0 });
      for (const [i, { grad_norm }] of kept.losses.entries())
        expect(used.losses[i]!.grad_norm / grad_norm).toBeCloseTo(1, 5);
      // as above; Adam's and Adafactor's updates hardly see how long gradients are
      expect(difference(used, kept, start)).toBeLessThan(1e-5);
      if (optim === 'sgd') expect(difference(free, kept, start)).toBeGreaterThan(0.1);
      expect(used.trainPlan.optimizer_in_bwd).toBe(true);
      expect(used.trainPlan.flops / free.trainPlan.flops).toBeCloseTo(1, 2);
      expect(used.measured).toBeLessThan(kept.measured);
      expect(used.trainPlan.total_bytes / used.measured).toBeGreaterThan(0.8);
      expect(used.trainPlan.total_bytes / used.measured).toBeLessThan(1.25);
    },
  );

  it('clips what lies in windows', async () => {
    const wide = { ...options, vocab_size: 400, hidden_size: 256, num_hidden_layers: 1, head_dim: 64 };
    const model = { ...whole, options: { ...wide, intermediate_size: 160 } };
    const maxBinding = 104 * 2 ** 10;
    const on = await Device.create(await nodeGpu(), {
      maxStorageBufferBindingSize: maxBinding,
      maxBufferSize: maxBinding,
    });
    const clipped = { ...one, max_grad_norm: 0.05 };
    expectSame(await train(model, false, { ...clipped, on }), await train(model, false, clipped));
  });

  it('gradients are kept where they are summed, scaled, or an adapter’s', async () => {
    const { limits } = await testDevice();
    const [name] = Object.keys(MODELS).filter((name) => MODELS[name]!.adapter);
    const planned = (model: StepModel, choices: Parameters<typeof planTraining>[4]): boolean =>
      planTraining(limits, model, CROSS_ENTROPY, [shape], choices).optimizer_in_bwd;
    expect(planned(whole, { gradient_accumulation_steps: 1, max_grad_norm: 1 })).toBe(true);
    expect(planned(whole, { gradient_accumulation_steps: 2 })).toBe(false);
    expect(planned(whole, {})).toBe(false);
    expect(planned(whole, { gradient_accumulation_steps: 1, fp16: true })).toBe(false);
    expect(planned(whole, { gradient_accumulation_steps: 1, optimizer_in_bwd: false })).toBe(false);
    expect(planned(MODELS[name!]!, { gradient_accumulation_steps: 1 })).toBe(false);
  });

  it('gradients that wait do not count as a step that does not fit', async () => {
    const { limits } = await testDevice();
    const arenaOf = (choices: Parameters<typeof planTraining>[4], most = 2 ** 30) =>
      planTraining({ ...limits, maxBufferSize: most }, whole, CROSS_ENTROPY, [shape], { max_grad_norm: 1, ...choices });
    const kept = arenaOf({ gradient_checkpointing: false }).plans[0]!.plan.memory.arena;
    const used = { gradient_accumulation_steps: 1 };
    expect(arenaOf(used, kept).optimizer_in_bwd).toBe(true);
    expect(arenaOf(used, kept).gradient_checkpointing).toBe(false);
    expect(arenaOf(used, kept / 8).gradient_checkpointing).toBe(true);
  });
});

it.each<Optim>(['sgd', 'sgd_momentum', 'lion_32bit', 'adafactor', 'adamw_8bit'])(
  'the optimiser in the backward pass: %s gives the same bits',
  { timeout: 300_000 },
  async (optim) => {
    const kept = await train(whole, false, { ...ONE, optim });
    expectSame(await train(whole, false, { ...ONE, optim, optimizer_in_bwd: true }), kept);
  },
);

it('trains a model larger than a binding to the same bits', { timeout: 300_000 }, async () => {
  const wide = { ...options, vocab_size: 400, hidden_size: 256, num_hidden_layers: 1, head_dim: 64 };
  const model = { ...whole, options: { ...wide, intermediate_size: 160 } };
  const small = { maxStorageBufferBindingSize: 104 * 2 ** 10, maxBufferSize: 104 * 2 ** 10 };
  const on = await Device.create(await nodeGpu(), small);
  const kept = await train(model, false, ONE);
  for (const fp16 of [false, true]) {
    const used = await train(model, false, { ...ONE, on, fp16, optimizer_in_bwd: true });
    expectSame(used, fp16 ? await train(model, false, { ...ONE, fp16 }) : kept);
  }
});

it.each([
  ['before', { optimizer_in_bwd: true }],
  ['within', { gradient_accumulation_steps: 1 }],
])('goes on from what it kept, to the same bits, the norm taken %s', { timeout: 300_000 }, async (_, how) => {
  const choices = { steps: 3, max_grad_norm: 0.05, ...how };
  const undisturbed = await train(whole, false, { ...choices, microBatches: 1 });
  const before = await trainerOf(whole, false, choices);
  await before.trainer.submitStep([before.batch], []);
  const state = await before.trainer.state();
  before.trainer.free();
  const after = await trainerOf(whole, false, choices);
  after.trainer.restore(state);
  for (let step = 1; step < 3; step++) await after.trainer.submitStep([after.batch], []);
  for (const [name, data] of await after.trainer.trained()) expect(data, name).toEqual(undisturbed.weights.get(name));
  after.trainer.free();
});

it('skips a step whose scaled loss overflows', { timeout: 300_000 }, async () => {
  const { trainer, batch } = await trainerOf(whole, false, { fp16: true, optimizer_in_bwd: true });
  const before = await trainer.trained();
  const { tensors } = await trainer.state();
  const huge = { name: 'loss_scale', data: Float32Array.of(2 ** 27, 0, 0) };
  trainer.restore({ step: 0, tensors: [...tensors.filter(({ name }) => name !== 'loss_scale'), huge] });
  expect(await trainer.submitStep([batch], [])).toMatchObject({ step: 1, skipped: true, grad_norm: 0 });
  for (const [name, data] of await trainer.trained()) expect(data, name).toEqual(before.get(name));
  trainer.free();
});

it('takes one micro-batch a step', async () => {
  const { trainer, batch } = await trainerOf(whole, false, { optimizer_in_bwd: true });
  expect(() => trainer.submitStep([batch, batch], [])).toThrow('one micro-batch a step');
  trainer.free();
});

it('holds the largest gradients of a layer, not of all', async () => {
  const { limits } = await testDevice();
  const total = (layers: number, optimizer_in_bwd: boolean): number =>
    planTraining(limits, { ...whole, options: { ...options, num_hidden_layers: layers } }, CROSS_ENTROPY, [shape], {
      gradient_checkpointing: true,
      optimizer_in_bwd,
      optim: 'sgd',
    }).total_bytes;
  const weights = (layers: number): number =>
    planTraining(limits, { ...whole, options: { ...options, num_hidden_layers: layers } }, CROSS_ENTROPY, [shape])
      .weights_bytes;
  const input = 4 * shape.rows * shape.length * options.hidden_size;
  const grown = weights(24) - weights(12);
  expect(total(24, false) - total(12, false)).toBe(2 * grown + 12 * input);
  expect(total(24, true) - total(12, true)).toBe(grown + 12 * input);
});
