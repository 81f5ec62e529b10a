/**
 * `fp16`: activations wait for the backward pass in 16 bits, and the loss is scaled. The forward pass is f32, so the first loss
 * has the bits of a run without; gradients carry roundings of 2⁻¹¹ of what was saved.
 */
import { describe, expect, it } from 'vitest';
import { gradients } from '../engine/graph/autodiff.ts';
import { Graph } from '../engine/graph/graph.ts';
import { plan } from '../engine/plan/plan.ts';
import { Arena, Program } from '../engine/run/program.ts';
import { linearLoss, matmul } from '../engine/ops/index.ts';
import { noise, testDevice } from '../engine/testing.ts';
import { LossScaler } from './loss-scaler.ts';
import { CROSS_ENTROPY } from './step-graphs.ts';
import { MODELS, options, shape, train, trainerOf } from './testing.ts';
import { planTraining } from './train-plan.ts';

const SGD = { optim: 'sgd', steps: 1 } as const;

/** Cosine of the angle between two runs' weights, seen from where both started, and the lengths' quotient. */
function alike(
  a: ReadonlyMap<string, Float32Array>,
  b: ReadonlyMap<string, Float32Array>,
  start: ReadonlyMap<string, Float32Array>,
): { cosine: number; lengths: number } {
  let [ab, aa, bb] = [0, 0, 0];
  for (const [name, from] of start)
    from.forEach((value, i) => {
      const [x, y] = [a.get(name)![i]! - value, b.get(name)![i]! - value];
      ab += x * y;
      aa += x * x;
      bb += y * y;
    });
  return { cosine: ab / Math.sqrt(aa * bb), lengths: Math.sqrt(aa / bb) };
}

describe.each(Object.entries(MODELS))('fp16: %s', (_, model) => {
  it('takes the same step but for rounding, from the same loss', { timeout: 300_000 }, async () => {
    const start = (await train(model, false, { ...SGD, steps: 0 })).weights;
    const full = await train(model, false, SGD);
    const half = await train(model, false, { ...SGD, fp16: true });
    expect(half.losses[0]!.loss).toBe(full.losses[0]!.loss);
    expect(half.losses[0]!.kl).toBe(full.losses[0]!.kl);
    const { cosine, lengths } = alike(half.weights, full.weights, start);
    // a rounding of 2⁻¹² (rms) a saved number; six layers of about ten add up to some 2⁻⁹
    expect(1 - cosine).toBeLessThan(2e-5);
    expect(Math.abs(1 - lengths)).toBeLessThan(2e-3);
    expect(half.losses[0]!.grad_norm / full.losses[0]!.grad_norm).toBeCloseTo(1, 2);
    // and not the same step: something was rounded
    expect([...half.weights.values()]).not.toEqual([...full.weights.values()]);
  });

  it('learns as without', { timeout: 300_000 }, async () => {
    const full = await train(model, false, { steps: 8 });
    const half = await train(model, false, { steps: 8, fp16: true });
    const [before, after] = [full.losses[0]!.loss, full.losses[7]!.loss];
    expect(before - after).toBeGreaterThan(0.1);
    expect(Math.abs(half.losses[7]!.loss - after)).toBeLessThan(0.05 * (before - after));
  });

  it('holds what a layer saves in half the bytes, as planned', { timeout: 300_000 }, async () => {
    const { limits } = await testDevice();
    const arena = (layers: number, choice: object): number => {
      const deep = { ...model, options: { ...options, num_hidden_layers: layers } };
      return planTraining(limits, deep, CROSS_ENTROPY, [shape], { gradient_checkpointing: false, ...choice }).plans[0]!
        .plan.memory.arena;
    };
    const layer = (choice: object): number => arena(24, choice) - arena(12, choice);
    // attention's log Σ exp alone stays f32
    expect(layer({ fp16: true }) / layer({})).toBeLessThan(0.53);
    const input = 4 * shape.rows * shape.length * options.hidden_size;
    expect(layer({ fp16: true, gradient_checkpointing: true })).toBe((12 * input) / 2);

    const half = await train(model, false, { fp16: true });
    expect(half.trainPlan.total_bytes / half.measured).toBeGreaterThan(0.8);
    expect(half.trainPlan.total_bytes / half.measured).toBeLessThan(1.25);
  });

  it('computes layers again from halves', { timeout: 300_000 }, async () => {
    const start = (await train(model, false, { ...SGD, steps: 0 })).weights;
    const full = await train(model, false, SGD);
    const half = await train(model, true, { ...SGD, fp16: true });
    expect(half.losses[0]!.loss).toBe(full.losses[0]!.loss);
    expect(1 - alike(half.weights, full.weights, start).cosine).toBeLessThan(2e-5);
  });
});

describe('the scale of the loss', () => {
  const model = MODELS['an adapter with dropout']!;

  it('halves where a step overflows, doubles after 2000 good ones, and is kept with a checkpoint', () => {
    const scaler = new LossScaler();
    expect(scaler.scale).toBe(65536);
    scaler.update(false);
    expect([scaler.scale, scaler.skipped]).toEqual([32768, 1]);
    for (let i = 0; i < 1999; i++) scaler.update(true);
    const resumed = new LossScaler();
    resumed.state = scaler.state;
    for (const one of [scaler, resumed]) {
      expect(one.scale).toBe(32768);
      one.update(true);
      expect([one.scale, one.skipped]).toEqual([65536, 1]);
    }
    for (let i = 0; i < 1999; i++) scaler.update(true);
    scaler.update(false);
    expect(scaler.scale).toBe(32768);
    for (let i = 0; i < 15; i++) scaler.update(false);
    expect([scaler.scale, scaler.exhausted]).toEqual([1, false]);
    scaler.update(false);
    expect(scaler.exhausted).toBe(true);
  });

  it('saves gradients that would vanish in 16 bits', async () => {
    const device = await testDevice();
    const [tokens, H, V] = [32, 16, 50];
    /** d loss / d w of a mean over a million tokens, of which these are some. */
    const gradient = async (fp16: boolean, scale: number): Promise<Float32Array> => {
      const graph = new Graph();
      const w = graph.input('w', [H, H]);
      const hidden = matmul(graph.input('x', [1, tokens, H]), w, { transB: true });
      const { loss } = linearLoss(
        hidden,
        graph.input('head', [V, H]),
        graph.input('targets', [1, tokens], 'i32'),
        graph.input('token_scale', [1]),
        { ...CROSS_ENTROPY, label_smoothing: 0, hiddenGradient: true, weightGradient: false },
      );
      const one = graph.constant('one', [1], Float32Array.of(1));
      graph.output('gradient', gradients(graph, loss, one, [w], { fp16 }).get(w)!);
      const arena = new Arena(device);
      const program = await Program.create(device, plan(graph, device.limits), new Map(), arena);
      const found = await program.run({
        w: noise(H * H, 1),
        x: noise(tokens * H, 2),
        head: noise(V * H, 3).map((x) => 0.1 * x),
        targets: Int32Array.from({ length: tokens }, (_, i) => (7 * i) % V),
        token_scale: Float32Array.of(scale * 1e-6),
      });
      program.free();
      arena.free();
      return (found.get('gradient') as Float32Array).map((value) => value / scale);
    };
    const wanted = await gradient(false, 1);
    const largest = Math.max(...wanted.map(Math.abs));
    const error = (got: Float32Array): number =>
      Math.max(...got.map((value, i) => Math.abs(value - wanted[i]!))) / largest;
    // entries of about 1e-7 are one or two steps of 2⁻²⁴
    expect(error(await gradient(true, 1))).toBeGreaterThan(0.05);
    expect(error(await gradient(true, 65536))).toBeLessThan(2e-3);
  });

  it('skips a step that overflows and goes on with a smaller scale', { timeout: 300_000 }, async () => {
    const { trainer, batch } = await trainerOf(model, false, { fp16: true });
    const before = await trainer.trained();
    const { tensors } = await trainer.state();
    const huge = { name: 'loss_scale', data: Float32Array.of(2 ** 27, 0, 0) };
    trainer.restore({ step: 0, tensors: [...tensors.filter(({ name }) => name !== 'loss_scale'), huge] });
    const first = await trainer.submitStep([batch], []);
    expect(first).toMatchObject({ step: 1, skipped: true, grad_norm: 0 });
    expect(first.loss).toBeGreaterThan(0);
    expect(await trainer.trained()).toEqual(before);
    // submitted ahead, as a run does
    const steps = await Promise.all(Array.from({ length: 8 }, () => trainer.submitStep([batch], [])));
    const done = steps.filter(({ skipped }) => !skipped);
    expect(done.length).toBeGreaterThan(0);
    expect(steps.slice(steps.indexOf(done[0]!)).every(({ skipped }) => !skipped)).toBe(true);
    const [scale, , skipped] = (await trainer.state()).tensors.find(({ name }) => name === 'loss_scale')!.data;
    expect(skipped).toBe(9 - done.length);
    expect(scale).toBe(2 ** (27 - skipped!));
    trainer.free();

    // what is left is what a run does that began with that scale: the optimiser has not seen the others
    const other = await trainerOf(model, false, { fp16: true });
    other.trainer.restore({
      step: 9 - done.length,
      tensors: [
        ...tensors.filter(({ name }) => name !== 'loss_scale'),
        { name: 'loss_scale', data: Float32Array.of(scale!, 0, skipped!) },
      ],
    });
    for (const wanted of done) expect(await other.trainer.submitStep([batch], [])).toEqual(wanted);
    other.trainer.free();
  });

  it('goes on from a checkpoint with the same bits', { timeout: 300_000 }, async () => {
    const first = await trainerOf(model, false, { fp16: true });
    for (let step = 0; step < 2; step++) await first.trainer.submitStep([first.batch], []);
    const kept = await first.trainer.state();
    const wanted = await first.trainer.submitStep([first.batch], []);
    const weights = await first.trainer.trained();
    first.trainer.free();
    const second = await trainerOf(model, false, { fp16: true });
    second.trainer.restore(kept);
    expect(await second.trainer.submitStep([second.batch], [])).toEqual(wanted);
    expect(await second.trainer.trained()).toEqual(weights);
    second.trainer.free();
  });

  it('says so where activations are what overflows', { timeout: 300_000 }, async () => {
    const { trainer, batch } = await trainerOf(model, false, { fp16: true, gain: 1e6 });
    const before = await trainer.trained();
    const steps = Array.from({ length: 17 }, () => trainer.submitStep([batch], []));
    const found = await Promise.allSettled(steps);
    expect(found.slice(0, 16).every((one) => one.status === 'fulfilled' && one.value.skipped)).toBe(true);
    expect(found[16]).toMatchObject({ status: 'rejected', reason: { fault: 'half-overflow' } });
    expect(await trainer.trained()).toEqual(before);
    trainer.free();
  });
});
