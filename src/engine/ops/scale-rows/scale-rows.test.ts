import { describe, it } from 'vitest';
import { checkGradient, checkKernel, floats } from '../../testing.ts';
import { rowDots, scaleRows } from './scale-rows.ts';

const SHAPES = [
  [1, 1],
  [5, 130],
  [64, 24],
];

describe('scaleRows', () => {
  for (const shape of SHAPES) {
    it(`kernel [${shape}]`, () =>
      checkKernel({ inputs: [floats(shape, 1), floats([shape[0]!], 2)], build: scaleRows, tolerance: 1e-7 }));
  }
  it('kernel [333, 130] in windows of a smaller binding', () =>
    checkKernel({
      inputs: [floats([333, 130], 1), floats([333], 2)],
      build: scaleRows,
      tolerance: 1e-7,
      maxBinding: 160 * 130 * 4,
    }));
  it('gradient', () => checkGradient({ inputs: [floats([5, 7], 1), floats([5], 2)], build: scaleRows }));
});

// sums of up to 130 products
describe('rowDots', () => {
  for (const shape of SHAPES) {
    it(`kernel [${shape}]`, () =>
      checkKernel({ inputs: [floats(shape, 1), floats(shape, 2)], build: rowDots, tolerance: 2e-6 }));
  }
  it('kernel [333, 130] in windows of a smaller binding', () =>
    checkKernel({
      inputs: [floats([333, 130], 1), floats([333, 130], 2)],
      build: rowDots,
      tolerance: 2e-6,
      maxBinding: 160 * 130 * 4,
    }));
});
