/**
 * 16-bit floats as bits: IEEE binary16 (f16) and bfloat16 (bf16), to and from f32.
 * Rounding is to nearest, ties to even; subnormals are kept; infinities stay; a NaN stays a (quiet) NaN.
 */

const f32 = new Float32Array(1);
const u32 = new Uint32Array(f32.buffer);

/** f32 of one f16's 16 bits. */
export function f16BitsToNumber(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const mantissa = bits & 1023;
  if (exponent === 0) return sign * mantissa * 2 ** -24;
  if (exponent === 31) return mantissa ? NaN : sign * Infinity;
  return sign * (1 + mantissa / 1024) * 2 ** (exponent - 15);
}

/** The 16 bits of the f16 nearest to an f32. */
export function numberToF16Bits(value: number): number {
  f32[0] = value;
  const bits = u32[0]!;
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;
  if (magnitude >= 0x47800000) return sign | 0x7c00; // 65536 and above, infinity
  if (magnitude < 0x38800000) {
    // Below 2^-14, the smallest normal: a whole number of 2^-24. The product is exact; the rounding is done here.
    f32[0] = value;
    const scaled = Math.abs(f32[0]) * 2 ** 24;
    const down = Math.floor(scaled);
    const rest = scaled - down;
    const up = rest > 0.5 || (rest === 0.5 && (down & 1) === 1);
    return sign | (up ? down + 1 : down);
  }
  // Rebias the exponent (127 to 15), drop 13 bits; a carry out of the mantissa rightly raises the exponent, up to infinity.
  const rebiased = magnitude - 0x38000000;
  return sign | ((rebiased + 0xfff + ((rebiased >>> 13) & 1)) >>> 13);
}

/** The 16 bits of the bf16 nearest to an f32. */
export function numberToBf16Bits(value: number): number {
  f32[0] = value;
  const bits = u32[0]!;
  if ((bits & 0x7fffffff) > 0x7f800000) return (bits >>> 16) | 0x40;
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff;
}

let f16Table: Float32Array | undefined;

/** All 65,536 f16 values, made on first use: a look-up is several times faster than arithmetic over a whole tensor. */
export function f16ValueTable(): Float32Array {
  f16Table ??= Float32Array.from({ length: 65536 }, (_, bits) => f16BitsToNumber(bits));
  return f16Table;
}

export function f16ToF32(bits: Uint16Array): Float32Array<ArrayBuffer> {
  const table = f16ValueTable();
  const values = new Float32Array(bits.length);
  for (let i = 0; i < bits.length; i++) values[i] = table[bits[i]!]!;
  return values;
}

export function f32ToF16(values: Float32Array): Uint16Array<ArrayBuffer> {
  const bits = new Uint16Array(values.length);
  for (let i = 0; i < values.length; i++) bits[i] = numberToF16Bits(values[i]!);
  return bits;
}

export function bf16ToF32(bits: Uint16Array): Float32Array<ArrayBuffer> {
  const words = new Uint32Array(bits.length);
  for (let i = 0; i < bits.length; i++) words[i] = bits[i]! << 16;
  return new Float32Array(words.buffer);
}

export function f32ToBf16(values: Float32Array): Uint16Array<ArrayBuffer> {
  const bits = new Uint16Array(values.length);
  for (let i = 0; i < values.length; i++) bits[i] = numberToBf16Bits(values[i]!);
  return bits;
}
