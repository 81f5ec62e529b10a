/** Steps of a device so slow that every kernel runs in parts: the same bits, and no submit over its time. */
import { afterEach, describe, expect, it, vi } from 'vitest';
import { testDevice } from '../engine/testing.ts';
import { MODELS, train } from './testing.ts';

const rate = (await testDevice()).flopsPerSecond;

afterEach(async () => {
  (await testDevice()).flopsPerSecond = rate;
  vi.restoreAllMocks();
});

describe.each(Object.entries(MODELS))('dispatches in parts: %s', (_, model) => {
  it('give the same bits', { timeout: 300_000 }, async () => {
    const device = await testDevice();
    const submits = vi.spyOn(device.gpu.queue, 'submit');
    const whole = await train(model, false);
    const before = submits.mock.calls.length;
    const longest = Math.max(...whole.trainPlan.plans[0]!.plan.dispatches.map(({ flops }) => flops));
    // a tenth of a second holds a hundredth of the longest dispatch
    device.flopsPerSecond = longest / 10;
    const inParts = await train(model, false);
    expect(submits.mock.calls.length - before).toBeGreaterThan(20 * before);
    expect(inParts.losses).toEqual(whole.losses);
    for (const [name, data] of whole.weights) expect(inParts.weights.get(name), name).toEqual(data);
  });
});
