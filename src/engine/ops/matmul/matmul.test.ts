import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { checkGradient, checkKernel, floats } from '../../testing.ts';
import { Graph } from '../../graph/graph.ts';
import type { OpDefinition, Value } from '../../graph/types.ts';
import { matmulDispatch } from './kernel.ts';
import { matmul, matmulOp } from './matmul.ts';

const layouts = [
  { transA: false, transB: true },
  { transA: false, transB: false },
  { transA: true, transB: false },
  { transA: true, transB: true },
];
const caseOf = (M: number, N: number, K: number, layout: (typeof layouts)[number], seed = 1) => ({
  inputs: [floats(layout.transA ? [K, M] : [M, K], seed), floats(layout.transB ? [N, K] : [K, N], seed + 1)],
  build: (a: Value, b: Value) => matmul(a, b, layout),
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
      [40, 48, 12],
    ]) {
      const test = caseOf(M!, N!, K!, layout);
      it(`kernel ${name} ${M}x${K}x${N}`, () => checkKernel(test));
      it(`register tiles ${name} ${M}x${K}x${N}`, () => checkKernel({ ...test, subgroups: false }));
    }
    it(`gradient ${name}`, () => checkGradient(caseOf(3, 5, 4, layout)));
  }
  for (const [M, N, K] of [
    [1, 64, 4],
    [1, 70, 300],
    [3, 67, 132],
    [4, 129, 64],
  ]) {
    const test = caseOf(M!, N!, K!, { transA: false, transB: true });
    it(`few rows NT ${M}x${K}x${N}`, () => checkKernel({ ...test, subgroups: false }));
  }
  // A, B or the product larger than a binding, in windows of 64 and of 128 rows; the last one short
  for (const [M, N, K, maxBinding] of [
    [150, 128, 16, 64 * 4 * 128],
    [150, 16, 132, 64 * 4 * 132],
    [20, 200, 72, 64 * 4 * 72],
    [3, 330, 48, 128 * 4 * 48],
    [150, 150, 150, 64 * 4 * 150],
    [6, 33, 300, 128 * 4 * 33],
  ] as const)
    for (const layout of layouts)
      it(`windows ${layout.transA ? 'T' : 'N'}${layout.transB ? 'T' : 'N'} ${M}x${K}x${N}`, async () => {
        const { transA, transB } = layout;
        // rows that no binding holds 64 of are refused, not cut: nothing to see in such a layout
        const widest = Math.max(transA ? M : K, transB ? K : N, N);
        const most = Math.max(maxBinding, 64 * 4 * widest);
        // columns of B are no window of it
        const test = { ...caseOf(M, N, K, layout), maxBinding: transA && transB ? Math.max(most, 4 * K * M) : most };
        await checkKernel(test);
        await checkKernel({ ...test, subgroups: false });
      });

  it('takes leading axes as rows', () => {
    const test = { inputs: [floats([2, 3, 4], 1), floats([5, 4], 2)], tolerance: 2e-6 };
    const build = (x: Value, w: Value) => matmul(x, w, { transB: true });
    checkGradient({ ...test, build });
    return checkKernel({ ...test, build });
  });
  it('adds into the output where asked, every entry once', () => {
    const adding: OpDefinition = {
      ...matmulOp,
      inPlace: { 0: 2 },
      reference: (inputs, attributes, outputs) => [
        {
          shape: inputs[2]!.shape,
          data: matmulOp.reference!(inputs, attributes, outputs)[0]!.data.map((x, i) => x + inputs[2]!.data[i]!),
        },
      ],
      kernel: ({ inputs: [a, b, out], limits }) => {
        const [[K, M], N] = [a!.shape as [number, number], b!.shape[1]!];
        return [matmulDispatch({ a: a!, b: b!, out: out!, M, N, K, transA: true, accumulate: true, limits })];
      },
    };
    return checkKernel({
      inputs: [floats([12, 37], 1), floats([12, 21], 2), floats([37, 21], 3)],
      states: [2],
      build: (a, b, out) => a.graph.apply(adding, [a, b, out], { transA: true }),
      tolerance: 2e-6,
    });
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
        async (M, N, K, layout) => {
          const test = caseOf(M, N, K, layout, M + N + K);
          await checkKernel(test);
          await checkKernel({ ...test, subgroups: false });
        },
      ),
      { numRuns: 5 },
    ));
  it('knows shapes with symbols and refuses what does not fit', () => {
    const graph = new Graph();
    const x = graph.input('x', ['batch', 'length', 8]);
    expect(matmul(x, graph.parameter('w', [5, 8]), { transB: true }).type.shape).toEqual(['batch', 'length', 5]);
    expect(() => matmul(x, graph.parameter('v', [5, 7]), { transB: true })).toThrow('8 is not 7');
  });
});
