import { describe, it } from 'vitest';
import { checkKernel, floats, type OpInput } from '../../testing.ts';
import { accumulate } from './accumulate.ts';

const factors = (keep: number, take: number): OpInput => ({ shape: [2], data: Float32Array.of(keep, take) });

// two products and a sum: three roundings of 2^-24
describe('accumulate', () => {
  it.each([[1], [7], [3, 5], [130, 66]])('[%s]', async (...shape) => {
    for (const [keep, take] of [
      [1, 1],
      [0, 1],
      [1, 2 ** -16],
      [0.5, 3],
    ] as const)
      await checkKernel({
        inputs: [floats(shape, 1), floats(shape, 2), factors(keep, take)],
        build: accumulate,
        states: [0],
        tolerance: 2e-7,
      });
  });

  it('does not read what it does not keep', () =>
    checkKernel({
      inputs: [{ shape: [4], data: Float32Array.of(NaN, Infinity, -Infinity, 1) }, floats([4], 2), factors(0, 1)],
      build: accumulate,
      states: [0],
      tolerance: 0,
    }));
});
