import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { BLOCKS, packedWords } from '../engine/graph/packing.ts';
import { numberToF16Bits, f16BitsToNumber } from './half.ts';
import { pack, unpack } from './pack-weights.ts';

const weights = fc.float32Array({
  minLength: 1,
  maxLength: 100,
  noNaN: true,
  noDefaultInfinity: true,
  min: -8,
  max: 8,
});
const blockOf = (data: Float32Array, i: number, size: number) => data.subarray(i - (i % size), i - (i % size) + size);
const largest = (block: Float32Array) => block.reduce((most, value) => Math.max(most, Math.abs(value)), 0);

describe('packed weights', () => {
  it('take 2, 1.125, 0.625 and 0.5625 bytes a number', () => {
    expect([packedWords('f16', 64), packedWords('int8', 64), packedWords('int4', 64), packedWords('nf4', 64)]).toEqual([
      32, 18, 10, 9,
    ]);
    expect([packedWords('f16', 3), packedWords('int8', 33), packedWords('int4', 1)]).toEqual([2, 18, 5]);
  });

  it('f16 keeps the nearest half', () =>
    fc.assert(
      fc.property(weights, (data) => {
        const halves = data.map((value) => f16BitsToNumber(numberToF16Bits(value)));
        expect(unpack('f16', pack('f16', data), data.length)).toEqual(halves);
      }),
    ));

  // half a step of the block's own scale, and the scale's own rounding
  it.each([
    ['int8', 0.5 / 127],
    // the step is an eighth of the largest; the other end of the range lacks one step
    ['int4', 1 / 8],
    // half of the widest gap between its codes
    ['nf4', (1 - 0.6961928009986877) / 2],
  ] as const)('%s is off by a step of its block at most', (dtype, step) =>
    fc.assert(
      fc.property(weights, (data) => {
        const got = unpack(dtype, pack(dtype, data), data.length);
        got.forEach((value, i) => {
          const most = largest(blockOf(data, i, BLOCKS[dtype].numbers)) * step * (1 + 1e-6);
          expect(Math.abs(value - data[i]!)).toBeLessThanOrEqual(most + 1e-40);
        });
      }),
    ),
  );

  it.each(['int8', 'int4', 'nf4'] as const)('%s keeps the largest of a block and zeros', (dtype) => {
    const data = Float32Array.from({ length: 32 }, (_, i) => (i === 5 ? -3.25 : 0));
    expect([...unpack(dtype, pack(dtype, data), 32)].map((value) => value + 0)).toEqual([...data]);
    expect([...unpack(dtype, pack(dtype, new Float32Array(40)), 40)].every((value) => value === 0)).toBe(true);
  });
});
