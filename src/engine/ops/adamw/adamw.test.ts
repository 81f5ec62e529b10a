import { describe, it } from 'vitest';
import { checkKernel, floats, integers } from '../../testing.ts';
import { kvAppend } from '../kv-append/kv-append.ts';
import { lastRow } from '../last-row/last-row.ts';
import { sumSquares } from '../sum-squares/sum-squares.ts';
import { adamw } from './adamw.ts';

const hyper = (maxNorm: number) => ({
  shape: [8],
  data: Float32Array.of(1e-2, 0.9, 0.999, 1e-8, 0.1, 0.1, 0.001, maxNorm),
});
const positive = (size: number, seed: number) => {
  const x = floats([size], seed);
  return { ...x, data: (x.data as Float32Array).map(Math.abs) };
};

// a few f32 operations an element, one square root and two divisions: 1e-6 of the largest entry
describe('adamw', () => {
  for (const size of [1, 63, 4097]) {
    for (const decay of [true, false]) {
      for (const maxNorm of [0, 0.5]) {
        it(`${size} numbers, decay ${decay}, clipped at ${maxNorm}`, () =>
          checkKernel({
            inputs: [
              floats([size], 1),
              floats([size], 2),
              positive(size, 3),
              floats([size], 4),
              hyper(maxNorm),
              { shape: [1], data: Float32Array.of(4) },
            ],
            states: [0, 1, 2],
            build: (p, m, v, g, h, n) => adamw(p!, m!, v!, g!, h!, n!, { decay }),
            tolerance: 2e-6,
          }));
      }
    }
  }
});

describe('sum-squares', () => {
  // 4,096 partial sums: rounding grows with the longest chain, 100,000 / 4,096 + 64 + 64 terms
  for (const size of [1, 4095, 100_003]) {
    it(`${size} numbers`, () => checkKernel({ inputs: [floats([size], 5)], build: sumSquares, tolerance: 2e-6 }));
  }
});

describe('kv-append and last-row', () => {
  it('writes at past_length', () =>
    checkKernel({
      inputs: [floats([2, 7, 6], 1), floats([2, 3, 6], 2), integers([1], [2])],
      states: [0],
      build: kvAppend,
      tolerance: 0,
    }));
  it('does not write past the end', () =>
    checkKernel({
      inputs: [floats([2, 4, 5], 1), floats([2, 3, 5], 2), integers([1], [3])],
      states: [0],
      build: kvAppend,
      tolerance: 0,
    }));
  it('takes the last token', () => checkKernel({ inputs: [floats([3, 4, 5], 1)], build: lastRow, tolerance: 0 }));
});
