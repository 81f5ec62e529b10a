/** Matmul of the shapes of a small language model, in the three transpositions that training needs. */
import type { Value } from '../../../engine/graph/types.ts';
import type { Graph } from '../../../engine/graph/graph.ts';
import { matmul } from '../../../engine/ops/index.ts';
import type { Bench } from '../bench.ts';
import { timeGraph } from '../measure.ts';

const SHAPES = [
  [512, 512, 512],
  [512, 576, 1536],
  [512, 1536, 576],
  [2048, 576, 576],
  [512, 576, 49152],
] as const;
const LAYOUTS = ['NT', 'NN', 'TN'] as const;

export async function matmulSuite({ device, peak_gflops, summary, add }: Bench): Promise<void> {
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

/** A [M, K] · B [K, N], each stored as the layout says. */
export const product =
  (M: number, K: number, N: number, layout: (typeof LAYOUTS)[number]) =>
  (graph: Graph): Value[] => {
    const transA = layout === 'TN';
    const transB = layout === 'NT';
    const a = graph.input('a', transA ? [K, M] : [M, K]);
    const b = graph.input('b', transB ? [N, K] : [K, N]);
    return [matmul(a, b, { transA, transB })];
  };
