import { expect, it } from 'vitest';
import type { TrainPlan } from '../train/train-plan.ts';
import { secondsOfStep, speedOf } from './foretell.ts';

const dispatches = (flops: number) => [{ flops, bytes: 0 }];
const shape = (length: number, flops: number, norm?: number) => ({
  shape: { rows: 2, length },
  plan: { dispatches: dispatches(flops) },
  ...(norm !== undefined && { norm: { dispatches: dispatches(norm) } }),
});
const planned = (plans: unknown[], update_bytes: number): Pick<TrainPlan, 'plans' | 'update_bytes'> => ({
  plans: plans as TrainPlan['plans'],
  update_bytes,
});
const SPEED = { flops_per_second: 10, bytes_per_second: 4, seconds_per_dispatch: 0.5 };

it('weighs planned lengths by how many micro-batches have them, and adds the update once a step', () => {
  const counts = new Map([
    [8, 3],
    [16, 1],
  ]);
  // (3 · 1.5 s + 2.5 s) / 4, twice a step, and 8 bytes
  expect(secondsOfStep(planned([shape(8, 10), shape(16, 20)], 8), counts, 2, SPEED)).toBeCloseTo(2 * 1.75 + 2, 9);
});

it('counts a pass that takes the norm before', () => {
  expect(secondsOfStep(planned([shape(8, 10, 5)], 0), new Map([[8, 3]]), 1, SPEED)).toBeCloseTo(1.5 + 1, 9);
});

it('goes by the pace of the last run, and guesses where nothing was measured', () => {
  expect(speedOf(true, { ...SPEED, pace: 2 })).toEqual({
    flops_per_second: 5,
    bytes_per_second: 2,
    seconds_per_dispatch: 1,
  });
  expect(speedOf(true, SPEED)).toEqual(SPEED);
  expect(speedOf(false, undefined).flops_per_second).toBeGreaterThan(speedOf(true, undefined).flops_per_second);
});
