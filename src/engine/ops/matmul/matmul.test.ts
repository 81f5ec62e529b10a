import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { checkGradient, checkKernel, floats } from '../../testing.ts';
import { Graph } from '../../graph/graph.ts';
import type { OpDefinition, Value } from '../../graph/types.ts';
import { matmulDispatch } from './kernel.ts';
import { matmul, matmulOp } from './matmul.ts';
import { rowWindows } from './row-windows.ts';

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
  // A or the product too large to bind, windows aligned by one row and by 64
  for (const [M, N, K, maxBinding] of [
    [150, 128, 16, 17 * 4 * 128],
    [150, 16, 128, 17 * 4 * 128],
    [150, 33, 20, 64 * 4 * 33],
  ] as const)
    for (const layout of layouts.filter(({ transA }) => !transA))
      it(`row windows N${layout.transB ? 'T' : 'N'} ${M}x${K}x${N}`, async () => {
        // the weight stays whole: only what passes its size is cut
        const test = { ...caseOf(M, N, K, layout), maxBinding: Math.max(maxBinding, 4 * K * N) };
        await checkKernel(test);
        await checkKernel({ ...test, subgroups: false });
      });
  it('cuts rows where windows are aligned, and refuses rows that no binding holds', () => {
    expect(rowWindows(37, 128, 64, 5 * 4 * 128)).toHaveLength(8);
    expect(rowWindows(150, 33, 20, 64 * 4 * 33).map(({ start }) => start)).toEqual([0, 64, 128]);
    expect(rowWindows(683, 49152, 576, 2 ** 27)).toEqual([
      { start: 0, rows: 682 },
      { start: 682, rows: 1 },
    ]);
    expect(() => rowWindows(2, 64, 64, 4 * 63)).toThrow('do not fit a binding of 252 bytes');
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
