import { describe, expect, test } from 'vitest';
import { bf16ToF32, f16ToF32, f32ToBf16, f32ToF16 } from './half.ts';

const allBits = Uint16Array.from({ length: 65536 }, (_, i) => i);
const isNaN16 = (bits: number, exponent: number) => (bits & exponent) === exponent && (bits & ~exponent & 0x7fff) !== 0;

describe.each([
  { name: 'f16', widen: f16ToF32, narrow: f32ToF16, exponent: 0x7c00 },
  { name: 'bf16', widen: bf16ToF32, narrow: f32ToBf16, exponent: 0x7f80 },
])('$name', ({ widen, narrow, exponent }) => {
  test('every value comes back from f32 with the same bits; a NaN stays a NaN', () => {
    const back = narrow(widen(allBits));
    for (const bits of allBits) {
      if (isNaN16(bits, exponent)) expect(isNaN16(back[bits]!, exponent)).toBe(true);
      else if (back[bits] !== bits) expect(back[bits]).toBe(bits);
    }
  });

  test('the middle of two neighbours goes to the even one, anything beside it to the nearer', () => {
    const values = widen(allBits);
    for (let bits = 0; bits < exponent - 1; bits++) {
      const low = values[bits]!;
      const high = values[bits + 1]!;
      const middle = Math.fround((low + high) / 2);
      const even = bits & 1 ? bits + 1 : bits;
      // The f32 just beside the middle, by its bits.
      const words = new Uint32Array(Float32Array.of(middle).buffer);
      const below = new Float32Array(Uint32Array.of(words[0]! - 1).buffer)[0]!;
      const above = new Float32Array(Uint32Array.of(words[0]! + 1).buffer)[0]!;
      const got = narrow(Float32Array.of(middle, below, above, -middle));
      const expected = [even, bits, bits + 1, even | 0x8000];
      if (middle !== (low + high) / 2) continue; // the lowest bf16 subnormals: the middle itself is no f32
      if (String([...got]) !== String(expected)) expect([...got], `between ${low} and ${high}`).toEqual(expected);
    }
  });
});

test('f16 at its edges', () => {
  const bits = f32ToF16(
    Float32Array.of(65504, 65519.996, 65520, 1e9, -Infinity, 2 ** -24, 2 ** -25, 2 ** -25 * 1.0001, -0),
  );
  expect([...bits]).toEqual([0x7bff, 0x7bff, 0x7c00, 0x7c00, 0xfc00, 1, 0, 1, 0x8000]);
});
