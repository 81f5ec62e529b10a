import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { BLOCKS, packedAs, packedWords, type PackedDType } from '../engine/graph/packing.ts';
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
  it('take 2, 1.125, 1.0625, 0.625, 0.625 and 0.5625 bytes a number', () => {
    const all = ['f16', 'int8', 'uint8', 'int4', 'uint4', 'nf4'] as const;
    expect(all.map((dtype) => packedWords(dtype, 64))).toEqual([32, 18, 17, 10, 10, 9]);
    expect([packedWords('f16', 3), packedWords('int8', 33), packedWords('int4', 1)]).toEqual([2, 18, 5]);
  });

  it('take 1.0625, 1.125, 0.5625, 0.5625 and 0.625 in blocks of the other size', () => {
    const others = ['int8_64', 'uint8_32', 'int4_64', 'uint4_64', 'nf4_32'] as const;
    expect(others.map((dtype) => packedWords(dtype, 64))).toEqual([17, 18, 9, 9, 10]);
    expect([packedWords('int8_64', 65), packedWords('nf4_32', 33), packedWords('int4_64', 1)]).toEqual([34, 10, 9]);
  });

  it('are of ten dtypes in blocks: every kind in either, under its own name in the block that it has by itself', () => {
    const named = (['int8', 'uint8', 'int4', 'uint4', 'nf4'] as const).map((kind) => [
      packedAs(kind),
      packedAs(kind, 32),
      packedAs(kind, 64),
    ]);
    expect(named).toEqual([
      ['int8', 'int8', 'int8_64'],
      ['uint8', 'uint8_32', 'uint8'],
      ['int4', 'int4', 'int4_64'],
      ['uint4', 'uint4', 'uint4_64'],
      ['nf4', 'nf4_32', 'nf4'],
    ]);
    expect(new Set(Object.keys(BLOCKS))).toEqual(new Set(['f16', ...named.flat()]));
    for (const [, of32, of64] of named) expect([BLOCKS[of32!].numbers, BLOCKS[of64!].numbers], of32).toEqual([32, 64]);
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
    ['int8_64', 0.5 / 127],
    // the step is an eighth of the largest; the other end of the range lacks one step
    ['int4', 1 / 8],
    ['int4_64', 1 / 8],
    // half of the widest gap between its codes
    ['nf4', (1 - 0.6961928009986877) / 2],
    ['nf4_32', (1 - 0.6961928009986877) / 2],
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

  // half a step of the block's range; its least number and its step are halves, which are off by 2^-11 of themselves or by
  // 2^-25 where they are small, and that once for each step
  it.each([
    ['uint8', 255, 1],
    ['uint8_32', 255, 1],
    ['uint4', 15, 15],
    ['uint4_64', 15, 15],
  ] as const)('%s is off by half a step of its block at most, and by what its halves lose', (dtype, codes, steps) =>
    fc.assert(
      fc.property(weights, (data) => {
        const got = unpack(dtype, pack(dtype, data), data.length);
        got.forEach((value, i) => {
          const block = blockOf(data, i, BLOCKS[dtype].numbers);
          const [range, most] = [Math.max(...block) - Math.min(...block), largest(block)];
          const halves = 2 ** -11 * (range + most) + (steps + 1) * 2 ** -25;
          expect(Math.abs(value - data[i]!)).toBeLessThanOrEqual((0.5 * (range + halves)) / codes + halves);
        });
      }),
    ),
  );

  it('uint4 keeps every bit of a Q4_1 block, which is a half of step and of least beside 0 to 15', () => {
    const [step, least] = [0.0123, -0.0789].map((value) => f16BitsToNumber(numberToF16Bits(value))) as [number, number];
    const data = Float32Array.from({ length: 32 }, (_, i) => least + step * ((i * 7) % 16));
    expect(unpack('uint4', pack('uint4', data), 32)).toEqual(data);
    const twice = new Float32Array([...data, ...data]);
    expect(unpack('uint4_64', pack('uint4_64', twice), 64)).toEqual(twice);
  });

  it('a zero point spends no codes where a block has no numbers', () => {
    const data = Float32Array.from({ length: 64 }, (_, i) => 1 + (i % 32) / 32);
    const worst = (dtype: PackedDType): number =>
      Math.max(...unpack(dtype, pack(dtype, data), 64).map((value, i) => Math.abs(value - data[i]!)));
    expect(worst('uint4')).toBeLessThan(0.3 * worst('int4'));
    expect(worst('uint8')).toBeLessThan(0.6 * worst('int8'));
    expect(worst('uint4_64')).toBeLessThan(0.3 * worst('int4_64'));
    expect(worst('uint8_32')).toBeLessThan(0.6 * worst('int8_64'));
  });

  it('a larger block is as coarse for all as its largest number asks', () => {
    const data = Float32Array.from({ length: 64 }, (_, i) => (i < 32 ? 1 : 1 / 64) * Math.sin(i + 1));
    const worstOfSmall = (dtype: PackedDType): number =>
      Math.max(...unpack(dtype, pack(dtype, data), 64).map((value, i) => (i < 32 ? 0 : Math.abs(value - data[i]!))));
    // 64 times as coarse but for nf4's codes, which lie closer around zero
    for (const kind of ['int8', 'uint8', 'int4', 'uint4', 'nf4'] as const)
      expect(worstOfSmall(packedAs(kind, 32)), kind).toBeLessThan(worstOfSmall(packedAs(kind, 64)) / 4);
  });

  it.each(['int8', 'int8_64', 'int4', 'int4_64', 'nf4', 'nf4_32'] as const)(
    '%s keeps the largest of a block and zeros',
    (dtype) => {
      const data = Float32Array.from({ length: 32 }, (_, i) => (i === 5 ? -3.25 : 0));
      expect([...unpack(dtype, pack(dtype, data), 32)].map((value) => value + 0)).toEqual([...data]);
      expect([...unpack(dtype, pack(dtype, new Float32Array(40)), 40)].every((value) => value === 0)).toBe(true);
    },
  );

  it.each(['uint8', 'uint8_32', 'uint4', 'uint4_64'] as const)(
    '%s keeps the least of a block, and blocks of one number',
    (dtype) => {
      const data = Float32Array.from({ length: 32 }, (_, i) => (i === 5 ? -3.25 : 0.01 * i));
      expect(unpack(dtype, pack(dtype, data), 32)[5]).toBe(-3.25);
      for (const value of [0, 0.5]) {
        const same = new Float32Array(70).fill(value);
        expect(unpack(dtype, pack(dtype, same), 70)).toEqual(same);
      }
    },
  );
});
