import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { checkGradient, checkKernel, floats, type OpInput } from '../../testing.ts';
import { Graph } from '../../graph/graph.ts';
import { gradients } from '../../graph/autodiff.ts';
import type { Value } from '../../graph/types.ts';
import { layernorm } from './layernorm.ts';

// means over H roundings of 2^-24, an inverse square root good to two units, sums over rows
describe('layernorm', () => {
  const both = (eps: number) => (x: Value, weight: Value, bias: Value, g: Value) => {
    const found = gradients(x.graph as Graph, layernorm(x, weight, bias, { eps }), g, [x, weight, bias]);
    return [found.get(x)!, found.get(weight)!, found.get(bias)!];
  };
  for (const shape of [
    [1, 3],
    [2, 5, 8],
    [3, 2, 7],
    [1, 1, 260],
    [130, 68],
  ]) {
    const H = shape[shape.length - 1]!;
    const inputs = [floats(shape, 1), floats([H], 2), floats([H], 4)];
    const build = (x: Value, weight: Value, bias: Value) => layernorm(x, weight, bias, { eps: 1e-5 });
    it(`kernel [${shape}]`, () => checkKernel({ inputs, build, tolerance: 1e-6 }));
    it(`gradients' kernels [${shape}]`, () =>
      checkKernel({ inputs: [...inputs, floats(shape, 3)], build: both(1e-5), tolerance: 2e-6 }));
    if (shape[0]! < 100) it(`gradient [${shape}]`, () => checkGradient({ inputs, build }, 1e-5));
  }
  it('any shape', () =>
    fc.assert(
      fc.asyncProperty(fc.integer({ min: 1, max: 9 }), fc.integer({ min: 4, max: 300 }), (rows, H) =>
        checkKernel({
          inputs: [floats([rows, H], H), floats([H], 2), floats([H], 4), floats([rows, H], 3)],
          build: (x, weight, bias, g) => [
            layernorm(x, weight, bias, { eps: 1e-12 }),
            ...both(1e-12)(x, weight, bias, g),
          ],
          tolerance: 5e-6,
        }),
      ),
      { numRuns: 5 },
    ));
  // f32 holds 1000 ± 1 to 3e-5 (the input is what it is); mean x² − μ² would leave nothing of the variance
  it('a row far from zero, and one with an outlier', () => {
    const far: OpInput = { shape: [2, 64], data: floats([2, 64], 1).data.map((v, i) => (i < 64 ? v + 1000 : v)) };
    far.data[64] = 3000;
    return checkKernel({
      inputs: [far, floats([64], 2), floats([64], 4), floats([2, 64], 3)],
      build: (x, weight, bias, g) => [layernorm(x, weight, bias, { eps: 1e-5 }), ...both(1e-5)(x, weight, bias, g)],
      tolerance: 1e-4,
    });
  });
  it('a constant row gives the bias', () =>
    checkKernel({
      inputs: [{ shape: [2, 4], data: new Float32Array(8).fill(3) }, floats([4], 1), floats([4], 2)],
      build: (x, weight, bias) => layernorm(x, weight, bias, { eps: 1e-5 }),
      tolerance: 0,
    }));
  it('refuses a weight of another size', () => {
    const graph = new Graph();
    const [x, w, b] = [graph.input('x', ['batch', 8]), graph.input('w', [7]), graph.input('b', [8])];
    expect(() => layernorm(x, w, b, { eps: 1e-5 })).toThrow('[7]');
  });
});
