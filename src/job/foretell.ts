/** How long an optimiser step is going to take: what the page foretells of a run, and the bench holds to what a step took. */
import { secondsOf, type Speed } from '../engine/tune/speed.ts';
import type { TrainPlan } from '../train/train-plan.ts';

/** What SwiftShader on two cores and a laptop's integrated GPU were seen to do, where nothing was measured yet. */
const UNKNOWN: Record<'software' | 'hardware', Speed> = {
  software: { flops_per_second: 5e9, bytes_per_second: 3e9, seconds_per_dispatch: 2e-5 },
  hardware: { flops_per_second: 7e11, bytes_per_second: 6e10, seconds_per_dispatch: 1e-5 },
};

/** What a device is counted on: as it was measured, and as much slower as its last run was. */
export function speedOf(software: boolean, known: (Speed & { readonly pace?: number }) | undefined): Speed {
  const speed = known ?? UNKNOWN[software ? 'software' : 'hardware'];
  const pace = known?.pace ?? 1;
  return {
    flops_per_second: speed.flops_per_second / pace,
    bytes_per_second: speed.bytes_per_second / pace,
    seconds_per_dispatch: speed.seconds_per_dispatch * pace,
  };
}

/**
 * @param counts how many micro-batches of each length there are
 * @param accumulated micro-batches a step
 */
export function secondsOfStep(
  { plans, update_bytes }: Pick<TrainPlan, 'plans' | 'update_bytes'>,
  counts: ReadonlyMap<number, number>,
  accumulated: number,
  speed: Speed,
): number {
  let [seconds, batches] = [0, 0];
  for (const { shape, plan, norm } of plans) {
    const count = counts.get(shape.length) ?? 0;
    seconds += count * (secondsOf(plan, speed) + (norm ? secondsOf(norm, speed) : 0));
    batches += count;
  }
  return (accumulated * seconds) / Math.max(1, batches) + update_bytes / speed.bytes_per_second;
}
