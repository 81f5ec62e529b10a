/**
 * Training by the kernels that a GPU is given, of which this machine has none: register tiles, long sums cut, rows handed round
 * a subgroup, attention by tiles. It must learn what the kernels for CPU adapters learn, and in the same bits whichever
 * variants the tuner were to choose.
 */
import { expect, it } from 'vitest';
import type { KernelChoice } from '../engine/graph/types.ts';
import type { Device } from '../engine/run/device.ts';
import { expectClose, testDevice } from '../engine/testing.ts';
import type { StepModel } from './step-graphs.ts';
import { MODELS, options, train, type Trained } from './testing.ts';

/** The device, taken for one whose subgroups vary in size. */
async function asGpu(tuning?: ReadonlyMap<string, string>): Promise<Device> {
  const device = await testDevice();
  return Object.create(device, {
    limits: { value: { ...device.limits, subgroupSize: undefined, tuning } },
  }) as Device;
}

function choicesOf({ trainPlan }: Trained): Map<string, KernelChoice> {
  const dispatches = trainPlan.plans.flatMap(({ plan }) => plan.dispatches);
  return new Map(dispatches.flatMap(({ dispatch: { choice } }) => (choice ? [[choice.key, choice]] : [])));
}

// 544 tokens: a weight's gradient is a sum over all of them. SGD, as AdamW divides a gradient by its own size: where it is
// nothing but rounding, so would the step be
const CHOICES = { rows: 17, steps: 2, optim: 'sgd' } as const;
/** Steps move most weights by 1e-4 to 7e-3 of the largest; f32 leaves 6e-8 of it. */
const TOLERANCE = 1e-6;

/** Wide enough for a workgroup that hands rows round. */
const wide = (model: StepModel): StepModel => ({ ...model, options: { ...options, intermediate_size: 128 } });

it.each(Object.entries(MODELS))('%s', { timeout: 300_000 }, async (_name, narrow) => {
  const model = wide(narrow);
  const usual = await train(model, false, CHOICES);
  const safe = await train(model, false, { ...CHOICES, on: await asGpu() });
  safe.losses.forEach(({ loss, grad_norm }, step) => {
    expect(loss).toBeCloseTo(usual.losses[step]!.loss, 5);
    expect(grad_norm).toBeCloseTo(usual.losses[step]!.grad_norm, 5);
  });
  for (const [name, wanted] of usual.weights) expectClose(safe.weights.get(name)!, wanted, TOLERANCE, name);

  const families = new Set<string>();
  for (const which of [1, 7, -1]) {
    const tuning = new Map<string, string>();
    for (const [key, { variants }] of choicesOf(safe)) {
      const names = variants().map(({ name }) => name);
      const name = names.at(which) ?? names.at(-1)!;
      tuning.set(key, name);
      families.add(name.split(' ')[0]!);
    }
    const other = await train(model, false, { ...CHOICES, on: await asGpu(tuning) });
    expect(other.losses).toEqual(safe.losses);
    expect(other.weights).toEqual(safe.weights);
  }
  expect([...families].sort()).toEqual(['broadcast', 'shared', 'split', 'tile']);
});
