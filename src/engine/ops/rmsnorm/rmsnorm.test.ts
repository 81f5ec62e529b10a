import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { checkGradient, checkKernel, floats } from '../../testing.ts';
import { Graph } from '../../graph/graph.ts';
import { gradients } from '../../graph/autodiff.ts';
import type { Value } from '../../graph/types.ts';
import { rmsnorm } from './rmsnorm.ts';

// means over H roundings of 2^-24, an inverse square root good to two units, sums over rows
describe('rmsnorm', () => {
  const both = (eps: number, offset: number) => (x: Value, weight: Value, g: Value) => {
    const found = gradients(x.graph as Graph, rmsnorm(x, weight, { eps, offset }), g, [x, weight]);
    return [found.get(x)!, found.get(weight)!];
  };
  for (const [shape, offset] of [
    [[1, 3], 0],
    [[2, 5, 8], 0],
    [[3, 2, 7], 1],
    [[1, 1, 260], 1],
    [[130, 68], 0],
  ] as const) {
    const H = shape[shape.length - 1]!;
    const inputs = [floats(shape, 1), floats([H], 2)];
    const build = (x: Value, weight: Value) => rmsnorm(x, weight, { eps: 1e-5, offset });
    it(`kernel [${shape}] offset ${offset}`, () => checkKernel({ inputs, build, tolerance: 1e-6 }));
    it(`gradients' kernels [${shape}] offset ${offset}`, () =>
      checkKernel({ inputs: [...inputs, floats(shape, 3)], build: both(1e-5, offset), tolerance: 2e-6 }));
    if (shape[0] < 100) it(`gradient [${shape}] offset ${offset}`, () => checkGradient({ inputs, build }, 1e-5));
  }
  for (const [shape, H] of [
    [[2, 3, 8], 4],
    [[1, 5, 9], 3],
  ] as const) {
    const inputs = [floats(shape, 1), floats([H], 2)];
    const build = (x: Value, weight: Value) => rmsnorm(x, weight, { eps: 1e-5 });
    it(`groups of ${H} in [${shape}], each by itself`, async () => {
      await checkKernel({ inputs, build, tolerance: 1e-6 });
      await checkKernel({ inputs: [...inputs, floats(shape, 3)], build: both(1e-5, 0), tolerance: 2e-6 });
      checkGradient({ inputs, build }, 1e-5);
    });
  }
  it('any shape', () =>
    fc.assert(
      fc.asyncProperty(fc.integer({ min: 1, max: 9 }), fc.integer({ min: 4, max: 300 }), (rows, H) =>
        checkKernel({
          inputs: [floats([rows, H], H), floats([H], 2), floats([rows, H], 3)],
          build: (x, weight, g) => [rmsnorm(x, weight, { eps: 1e-6 }), ...both(1e-6, 0)(x, weight, g)],
          tolerance: 5e-6,
        }),
      ),
      { numRuns: 5 },
    ));
  it('a row of zeros gives zeros', () =>
    checkKernel({
      inputs: [{ shape: [2, 4], data: new Float32Array(8) }, floats([4], 1)],
      build: (x, weight) => rmsnorm(x, weight, { eps: 1e-5 }),
      tolerance: 0,
    }));
  it('refuses a weight of another size', () => {
    const graph = new Graph();
    expect(() => rmsnorm(graph.input('x', ['batch', 8]), graph.input('w', [7]), { eps: 1e-5 })).toThrow('[7]');
    expect(() => rmsnorm(graph.input('y', ['batch', 8]), graph.input('v', [16]), { eps: 1e-5 })).toThrow('[16]');
  });
});
