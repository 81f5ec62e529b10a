/** Matmul of the shapes of a small language model, in the three transpositions that training needs. */
import type { Bench } from '../suite.ts';
import { tune } from '../../../engine/tune/tuner.ts';
import { planOf, timeGraph } from '../measure.ts';
import { LAYOUTS, product } from '../shapes.ts';

const SHAPES = [
  [512, 512, 512],
  [512, 576, 1536],
  [512, 1536, 576],
  [2048, 576, 576],
  [512, 576, 49152],
] as const;

/** Milliseconds for the tuner; on a CPU there is little to choose between, and noise enough to choose wrongly. */
const TUNING = 10_000;

export async function matmulSuite({ device, peak_gflops, summary, add, tell }: Bench): Promise<void> {
  if (!device.adapter.software) {
    tell('matmul: which kernels are fastest here');
    const plans = SHAPES.flatMap(([M, K, N]) =>
      LAYOUTS.map((layout) => planOf(product(M, K, N, layout), device.limits)),
    );
    device.learn({ tuning: (await tune(device, plans, TUNING)).fastest });
  }
  for (const [M, K, N] of SHAPES) {
    for (const layout of LAYOUTS) {
      const { ms, flops } = await timeGraph(device, product(M, K, N, layout));
      const gflops = flops / ms / 1e6;
      const fraction_of_peak = gflops / peak_gflops;
      summary.matmul_fraction_of_peak = Math.min(summary.matmul_fraction_of_peak ?? Infinity, fraction_of_peak);
      add({ suite: 'matmul', name: `${layout} ${M}x${K}x${N}`, ms, gflops, fraction_of_peak });
    }
  }
}
