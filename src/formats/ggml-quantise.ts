/**
 * f32 ─▶ bytes of ggml's types, as llama.cpp's own writer rounds them (ggml-quants.c: quantize_row_q8_0_ref,
 * quantize_row_q4_0_ref; gguf-py/quants.py), so that a file made here and one made there hold the same blocks.
 *
 *   Q8_0   32 weights: f16 d = max|x| / 127, then 32 × int8 round(x / d), halves away from zero
 *   Q4_0   32 weights: f16 d = (the x farthest from zero) / -8, then 32 × 4 bits floor(x / d + 8.5) from 0 to 15;
 *          weight j in the low half of byte j, weight j + 16 in its high half
 */
import { f32ToF16, numberToF16Bits } from './half.ts';

export type WrittenGgmlType = 'F32' | 'F16' | 'Q8_0' | 'Q4_0';

/** Weights in a block of either quantised type. */
export const QUANTISED_BLOCK = 32;

export function encodeGgml(type: WrittenGgmlType, values: Float32Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
  switch (type) {
    case 'F32':
      return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
    case 'F16':
      return new Uint8Array(f32ToF16(values).buffer);
    case 'Q8_0':
      return inBlocks(values, 34, q8_0);
    case 'Q4_0':
      return inBlocks(values, 18, q4_0);
  }
}

/** Bytes that so many weights take. */
export function ggmlBytes(type: WrittenGgmlType, count: number): number {
  const bits = { F32: 32, F16: 16, Q8_0: 8.5, Q4_0: 4.5 }[type];
  return (count * bits) / 8;
}

type Block = (x: Float32Array, from: number, out: Uint8Array, at: number) => void;

function inBlocks(values: Float32Array, bytes: number, encode: Block): Uint8Array<ArrayBuffer> {
  const blocks = values.length / QUANTISED_BLOCK;
  const out = new Uint8Array(blocks * bytes);
  for (let i = 0; i < blocks; i++) encode(values, i * QUANTISED_BLOCK, out, i * bytes);
  return out;
}

const q8_0: Block = (x, from, out, at) => {
  let most = 0;
  for (let j = 0; j < 32; j++) most = Math.max(most, Math.abs(x[from + j]!));
  const d = Math.fround(most / 127);
  const inverse = d === 0 ? 0 : Math.fround(1 / d);
  putScale(out, at, d);
  for (let j = 0; j < 32; j++) {
    const scaled = Math.fround(x[from + j]! * inverse);
    out[at + 2 + j] = Math.sign(scaled) * Math.floor(Math.abs(scaled) + 0.5);
  }
};

const q4_0: Block = (x, from, out, at) => {
  let farthest = 0;
  for (let j = 0; j < 32; j++) if (Math.abs(x[from + j]!) > Math.abs(farthest)) farthest = x[from + j]!;
  const d = Math.fround(farthest / -8);
  const inverse = d === 0 ? 0 : Math.fround(1 / d);
  putScale(out, at, d);
  // product and sum are rounded once, as with a fused multiply-add
  const level = (value: number): number => Math.min(15, Math.trunc(value * inverse + 8.5));
  for (let j = 0; j < 16; j++) out[at + 2 + j] = level(x[from + j]!) | (level(x[from + 16 + j]!) << 4);
};

function putScale(out: Uint8Array, at: number, d: number): void {
  const bits = numberToF16Bits(d);
  out[at] = bits & 255;
  out[at + 1] = bits >> 8;
}
