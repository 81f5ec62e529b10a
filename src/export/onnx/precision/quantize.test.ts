import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { BLOCK, quantizeBlocks } from './q4.ts';
import { quantizeRows } from './q8.ts';

const size = fc.integer({ min: 1, max: 70 });
const numbers = (count: number, seed: number): Float32Array =>
  Float32Array.from({ length: count }, (_, i) => Math.sin(seed + i * 12.9898) * Math.exp(Math.cos(seed * i)));

describe('quantizeRows', () => {
  it('is within half a step of every number, and exact at 0 and at the largest', () => {
    fc.assert(
      fc.property(size, size, fc.nat(), (rows, columns, seed) => {
        const data = numbers(rows * columns, seed);
        data[0] = 0;
        const { values, scales } = quantizeRows(data, rows, columns);
        data.forEach((value, i) => {
          const scale = scales[Math.floor(i / columns)]!;
          expect(Math.abs((values[i]! - 128) * scale - value)).toBeLessThanOrEqual(scale * 0.5001);
        });
        expect(values[0]).toBe(128);
      }),
      { numRuns: 100 },
    );
  });

  it('keeps a row of zeros', () => {
    expect(quantizeRows(new Float32Array(4), 2, 2)).toEqual({
      values: Uint8Array.of(128, 128, 128, 128),
      scales: Float32Array.of(1, 1),
    });
  });
});

describe('quantizeBlocks', () => {
  for (const bits of [4, 8] as const) {
    it(`${bits} bits: a block is off by no more than its steps, and padding is 0`, () => {
      fc.assert(
        fc.property(fc.integer({ min: 1, max: 5 }), size, fc.nat(), (rows, columns, seed) => {
          const data = numbers(rows * columns, seed);
          const { values, scales } = quantizeBlocks(data, rows, columns, bits);
          const blocks = Math.ceil(columns / BLOCK);
          const zero = 2 ** (bits - 1);
          const level = (row: number, i: number): number => {
            const at = row * blocks * BLOCK + i;
            if (bits === 8) return values[at]!;
            return i % 2 === 0 ? values[at >> 1]! & 15 : values[at >> 1]! >> 4;
          };
          for (let row = 0; row < rows; row++) {
            for (let block = 0; block < blocks; block++) {
              let largest = 0;
              let error = 0;
              let count = 0;
              for (let i = block * BLOCK; i < (block + 1) * BLOCK; i++) {
                if (i >= columns) {
                  expect(level(row, i)).toBe(zero);
                  continue;
                }
                const value = data[row * columns + i]!;
                largest = Math.max(largest, Math.abs(value));
                error += (value - (level(row, i) - zero) * scales[row * blocks + block]!) ** 2;
                count++;
              }
              // half a step for each but the one that the far end of the range cuts: a whole step
              const step = largest / zero;
              expect(error).toBeLessThanOrEqual((count * step ** 2) / 4 + 2 * count * step ** 2 * 0.5 + 1e-12);
            }
          }
        }),
        { numRuns: 60 },
      );
    });
  }

  it('keeps what four bits can hold exactly', () => {
    const data = Float32Array.from({ length: 32 }, (_, i) => ((i % 16) - 8) * 0.25);
    const { values, scales } = quantizeBlocks(data, 1, 32, 4);
    expect(scales[0]).toBe(0.25);
    expect(Array.from(values.subarray(0, 3))).toEqual([0x10, 0x32, 0x54]);
  });
});
