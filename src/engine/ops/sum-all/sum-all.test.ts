import fc from 'fast-check';
import { describe, it } from 'vitest';
import { checkGradient, checkKernel, floats } from '../../testing.ts';
import { mul } from '../mul/mul.ts';
import { sumLeading } from '../sum-leading/sum-leading.ts';
import { sumSquares } from '../sum-squares/sum-squares.ts';
import { fill, sumAll } from './sum-all.ts';

/** Rows, columns and a further axis: single ones, odd ones, and more than a workgroup has threads. */
const shapes = fc.tuple(
  fc.oneof(fc.constant(1), fc.integer({ min: 2, max: 300 })),
  fc.oneof(fc.constant(1), fc.integer({ min: 2, max: 70 })),
  fc.integer({ min: 1, max: 5 }),
);
const forShapes = (check: (shape: [number, number, number]) => Promise<void>): Promise<void> =>
  fc.assert(fc.asyncProperty(shapes, check), { numRuns: 6, seed: 7 });

// up to 105,000 numbers of either sign below 1, whose sum is small beside what is added up: the squares' is not
describe('sums', () => {
  it('of everything', () =>
    forShapes((shape) =>
      checkKernel({ inputs: [{ shape, data: (floats(shape, 1).data as Float32Array).map(Math.abs) }], build: sumAll }),
    ));
  it('of squares', () => forShapes((shape) => checkKernel({ inputs: [floats(shape, 1)], build: sumSquares })));
  it('over leading axes', () =>
    forShapes(async (shape) => {
      for (const keep of [1, 2]) {
        const test = {
          inputs: [floats(shape, 1)],
          build: (x: Parameters<typeof sumLeading>[0]) => sumLeading(x, keep),
        };
        // up to 21,000 numbers, relative to the largest of the sums
        await checkKernel({ ...test, tolerance: 2e-5 });
      }
    }));
  it('have gradients', () => {
    checkGradient({ inputs: [floats([3, 2, 5], 1)], build: sumAll });
    checkGradient({ inputs: [floats([1], 1)], build: (x) => fill(x, [3, 2]) });
  });
});

describe('mul', () => {
  it('by the same shape and by last axes, any size', () =>
    forShapes(async (shape) => {
      for (const end of [shape, shape.slice(1), shape.slice(2)])
        await checkKernel({ inputs: [floats(shape, 1), floats(end, 2)], build: mul, tolerance: 2e-7 });
    }));
  it('has gradients', () => {
    for (const end of [[3, 2, 4], [2, 4], [4]])
      checkGradient({ inputs: [floats([3, 2, 4], 1), floats(end, 2)], build: mul });
  });
});
