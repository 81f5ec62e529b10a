import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { checkGradient, checkKernel, floats } from '../../testing.ts';
import { Graph } from '../../graph/graph.ts';
import { matmul } from './matmul.ts';

const layouts = [
  { transA: false, transB: true },
  { transA: false, transB: false },
  { transA: true, transB: false },
  { transA: true, transB: true },
];
const caseOf = (M: number, N: number, K: number, layout: (typeof layouts)[number], seed = 1) => ({
  inputs: [floats(layout.transA ? [K, M] : [M, K], seed), floats(layout.transB ? [N, K] : [K, N], seed + 1)],
  build: (a: Parameters<typeof matmul>[0], b: Parameters<typeof matmul>[1]) => matmul(a, b, layout),
  // K products of numbers below 1, rounded to 2^-24 each: errors grow like sqrt(K) and so does the largest entry
  tolerance: 2e-6,
});

describe('matmul', () => {
  for (const layout of layouts) {
    const name = `${layout.transA ? 'T' : 'N'}${layout.transB ? 'T' : 'N'}`;
    for (const [M, N, K] of [
      [1, 9, 8],
      [3, 5, 7],
      [6, 36, 20],
      [37, 8, 64],
      [65, 33, 130],
    ]) {
      it(`kernel ${name} ${M}x${K}x${N}`, () => checkKernel(caseOf(M!, N!, K!, layout)));
    }
    it(`gradient ${name}`, () => checkGradient(caseOf(3, 5, 4, layout)));
  }
  it('takes leading axes as rows', () => {
    const test = { inputs: [floats([2, 3, 4], 1), floats([5, 4], 2)], tolerance: 2e-6 };
    const build = (x: Parameters<typeof matmul>[0], w: Parameters<typeof matmul>[1]) => matmul(x, w, { transB: true });
    checkGradient({ ...test, build });
    return checkKernel({ ...test, build });
  });
  it('sums over all rows of both for the gradient of a weight', () =>
    checkKernel({
      inputs: [floats([2, 3, 4], 1), floats([2, 3, 5], 2)],
      build: (g, x) => matmul(g, x, { transA: true }),
      tolerance: 2e-6,
    }));
  it('any size, any layout', () =>
    fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 40 }),
        fc.integer({ min: 1, max: 70 }),
        fc.integer({ min: 1, max: 50 }),
        fc.constantFrom(...layouts),
        (M, N, K, layout) => checkKernel(caseOf(M, N, K, layout, M + N + K)),
      ),
      { numRuns: 6 },
    ));
  it('knows shapes with symbols and refuses what does not fit', () => {
    const graph = new Graph();
    const x = graph.input('x', ['batch', 'length', 8]);
    expect(matmul(x, graph.parameter('w', [5, 8]), { transB: true }).type.shape).toEqual(['batch', 'length', 5]);
    expect(() => matmul(x, graph.parameter('v', [5, 7]), { transB: true })).toThrow('8 is not 7');
  });
});
