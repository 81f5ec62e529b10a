/** Computing layers again changes the memory of a step and none of its bits. */
import { describe, expect, it } from 'vitest';
import { testDevice } from '../engine/testing.ts';
import { CROSS_ENTROPY } from './step-graphs.ts';
import { MODELS, options, shape, train } from './testing.ts';
import { planTraining, type GradientCheckpointing } from './train-plan.ts';

describe.each(Object.entries(MODELS))('gradient checkpointing: %s', (_, model) => {
  it('gives the same bits, in the memory that was planned', { timeout: 300_000 }, async () => {
    const kept = await train(model, false);
    const recomputed = await train(model, true);
    expect(recomputed.losses).toEqual(kept.losses);
    expect(recomputed.losses[2]!.loss).not.toBe(recomputed.losses[0]!.loss);
    expect(recomputed.weights.size).toBeGreaterThan(0);
    for (const [name, data] of kept.weights) expect(recomputed.weights.get(name), name).toEqual(data);
    for (const { trainPlan, measured } of [kept, recomputed]) {
      expect(trainPlan.total_bytes / measured).toBeGreaterThan(0.8);
      expect(trainPlan.total_bytes / measured).toBeLessThan(1.25);
    }
    expect(recomputed.measured).toBeLessThan(kept.measured);
  });

  it('lets memory grow by one input a layer', async () => {
    const { limits } = await testDevice();
    const arena = (layers: number, checkpointing: boolean): number => {
      const deep = { ...model, options: { ...options, num_hidden_layers: layers } };
      return planTraining(limits, deep, CROSS_ENTROPY, [shape], { gradient_checkpointing: checkpointing }).plans[0]!
        .plan.memory.arena;
    };
    const input = 4 * shape.rows * shape.length * options.hidden_size;
    expect(arena(24, true) - arena(12, true)).toBe(12 * input);
    expect(arena(24, false) - arena(12, false)).toBeGreaterThan(5 * 12 * input);
  });

  it('is chosen where the step would not fit, and only there', async () => {
    const { limits } = await testDevice();
    const planned = (most: number, checkpointing: GradientCheckpointing) =>
      planTraining({ ...limits, maxBufferSize: most }, model, CROSS_ENTROPY, [shape], {
        gradient_checkpointing: checkpointing,
      });
    const most = planned(2 ** 30, false).plans[0]!.plan.memory.arena;
    expect(planned(most, null).gradient_checkpointing).toBe(false);
    expect(planned(most - 1, null).gradient_checkpointing).toBe(true);
    expect(planned(most - 1, null).plans[0]!.plan.memory.arena).toBeLessThan(most);
    expect(planned(most - 1, false).gradient_checkpointing).toBe(false);
    expect(planned(most, true).gradient_checkpointing).toBe(true);
  });
});
