/**
 * Where a teacher's draws fall, in its cumulative distribution: one at a random place in each N-th of it, so that they rise
 * without being sorted and any sum over them varies no more than over N independent ones (stratified sampling). A pure function of
 * seed, row and position: a cache that is made again, or goes on after an interruption, has the same draws.
 */
import { philox } from '../engine/ops/philox.ts';

/** Fourth word of the counter, as data/random.ts gives each use of a seed its own: "DRAW". */
const STREAM = 0x4452_4157;
/** The largest f32 below 1. */
const BELOW_ONE = 1 - 2 ** -24;

/** @param points f32 [N], written */
export function drawPoints(seed: number, row: number, position: number, points: Float32Array): void {
  const N = points.length;
  for (let j = 0; j < N; j += 4) {
    const words = philox([j / 4, row, position, STREAM], [seed, 0]);
    for (let i = j; i < Math.min(j + 4, N); i++) points[i] = Math.min((i + words[i - j]! / 2 ** 32) / N, BELOW_ONE);
  }
}
