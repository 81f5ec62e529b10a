/** Matmul of the shapes of a small language model, in the three transpositions that training needs. */
import type { Bench } from '../suite.ts';
import { tune } from '../../../engine/tune/tuner.ts';
import { planOf, timeInTurn, type Build } from '../measure.ts';
import { LAYOUTS, product } from '../shapes.ts';

/** Each of a group in turn: a shared machine was seen to be half as fast for seconds on end. */
const GROUPS = [
  [
    [512, 512, 512],
    [512, 576, 1536],
    [512, 1536, 576],
    [2048, 576, 576],
  ],
  [[512, 576, 49152]],
] as const;

/** Milliseconds for the tuner; on a CPU there is little to choose between, and noise enough to choose wrongly. */
const TUNING = 10_000;

export async function matmulSuite({ device, peak_gflops, summary, add, tell }: Bench): Promise<void> {
  if (!device.adapter.software) {
    tell('matmul: which kernels are fastest here');
    const plans = products(GROUPS.flat()).map(({ build }) => planOf(build, device.limits));
    device.learn({ tuning: (await tune(device, plans, TUNING)).fastest });
  }
  for (const shapes of GROUPS) {
    const group = products(shapes);
    tell(`matmul: ${group.map(({ name }) => name).join(', ')}`);
    const times = await timeInTurn(
      device,
      group.map(({ build }) => build),
    );
    for (const [i, { ms, flops }] of times.entries()) {
      const gflops = flops / ms / 1e6;
      const fraction_of_peak = gflops / peak_gflops;
      summary.matmul_fraction_of_peak = Math.min(summary.matmul_fraction_of_peak ?? Infinity, fraction_of_peak);
      add({ suite: 'matmul', name: group[i]!.name, ms, gflops, fraction_of_peak });
    }
  }
}

const products = (shapes: readonly (readonly [M: number, K: number, N: number])[]): { name: string; build: Build }[] =>
  shapes.flatMap(([M, K, N]) =>
    LAYOUTS.map((layout) => ({ name: `${layout} ${M}x${K}x${N}`, build: product(M, K, N, layout) })),
  );
