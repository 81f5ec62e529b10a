/**
 * ggml's tensor types: how many weights a block holds, how many bytes it takes, and what its bits say in f32.
 * Layouts and order of operations are those of ggml-quants.c, so values equal ggml's bit for bit; types without a
 * `dequantise` are known by size only (ggml.h, ggml-common.h).
 */
import { f16ValueTable } from './half.ts';
import { widenToF32 } from './tensor-file.ts';

export interface GgmlType {
  readonly name: string;
  /** Weights in a block; a row is whole blocks. */
  readonly block: number;
  /** Bytes of a block. */
  readonly bytes: number;
  /** Whole blocks to f32. */
  readonly dequantise?: (blocks: Uint8Array<ArrayBuffer>) => Float32Array<ArrayBuffer>;
}

const plain = (name: string, bytes: number): GgmlType => ({ name, block: 1, bytes });
const float = (name: string, bytes: number): GgmlType => ({
  ...plain(name, bytes),
  dequantise: (blocks) => widenToF32(name, blocks)!,
});

/** `decode` writes the weights of the block at byte `at` from element `out` on; `half` is every f16 by its bits. */
function quantised(
  name: string,
  block: number,
  bytes: number,
  decode: (b: Uint8Array, at: number, y: Float32Array, out: number, half: Float32Array) => void,
): GgmlType {
  return {
    name,
    block,
    bytes,
    dequantise(blocks) {
      const count = blocks.length / bytes;
      const y = new Float32Array(count * block);
      const half = f16ValueTable();
      for (let i = 0; i < count; i++) decode(blocks, i * bytes, y, i * block, half);
      return y;
    },
  };
}

const u16 = (b: Uint8Array, at: number): number => b[at]! | (b[at + 1]! << 8);

const q4_0 = quantised('Q4_0', 32, 18, (b, at, y, out, half) => {
  const d = half[u16(b, at)]!;
  for (let j = 0; j < 16; j++) {
    const q = b[at + 2 + j]!;
    y[out + j] = ((q & 15) - 8) * d;
    y[out + 16 + j] = ((q >> 4) - 8) * d;
  }
});

const q4_1 = quantised('Q4_1', 32, 20, (b, at, y, out, half) => {
  const d = half[u16(b, at)]!;
  const m = half[u16(b, at + 2)]!;
  for (let j = 0; j < 16; j++) {
    const q = b[at + 4 + j]!;
    y[out + j] = (q & 15) * d + m;
    y[out + 16 + j] = (q >> 4) * d + m;
  }
});

const q5_0 = quantised('Q5_0', 32, 22, (b, at, y, out, half) => {
  const d = half[u16(b, at)]!;
  for (let j = 0; j < 16; j++) {
    const q = b[at + 6 + j]!;
    y[out + j] = (((q & 15) | (fifthBit(b, at + 2, j) << 4)) - 16) * d;
    y[out + 16 + j] = (((q >> 4) | (fifthBit(b, at + 2, j + 16) << 4)) - 16) * d;
  }
});

const q5_1 = quantised('Q5_1', 32, 24, (b, at, y, out, half) => {
  const d = half[u16(b, at)]!;
  const m = half[u16(b, at + 2)]!;
  for (let j = 0; j < 16; j++) {
    const q = b[at + 8 + j]!;
    y[out + j] = ((q & 15) | (fifthBit(b, at + 4, j) << 4)) * d + m;
    y[out + 16 + j] = ((q >> 4) | (fifthBit(b, at + 4, j + 16) << 4)) * d + m;
  }
});

const fifthBit = (b: Uint8Array, at: number, j: number): number => (b[at + (j >> 3)]! >> (j & 7)) & 1;

const q8_0 = quantised('Q8_0', 32, 34, (b, at, y, out, half) => {
  const d = half[u16(b, at)]!;
  for (let j = 0; j < 32; j++) y[out + j] = ((b[at + 2 + j]! << 24) >> 24) * d;
});

/** The 6-bit scale and minimum of one of the eight sub-blocks of Q4_K and Q5_K, packed in 12 bytes. */
const scaleOf = (b: Uint8Array, at: number, j: number): number =>
  j < 4 ? b[at + j]! & 63 : (b[at + j + 4]! & 15) | ((b[at + j - 4]! >> 6) << 4);
const minimumOf = (b: Uint8Array, at: number, j: number): number =>
  j < 4 ? b[at + j + 4]! & 63 : (b[at + j + 4]! >> 4) | ((b[at + j]! >> 6) << 4);

const q4_k = quantised('Q4_K', 256, 144, (b, at, y, out, half) => {
  const d = half[u16(b, at)]!;
  const dmin = half[u16(b, at + 2)]!;
  for (let j = 0; j < 8; j++) {
    const scale = d * scaleOf(b, at + 4, j);
    const minimum = dmin * minimumOf(b, at + 4, j);
    const q = at + 16 + (j >> 1) * 32;
    const shift = (j & 1) * 4;
    for (let l = 0; l < 32; l++) y[out + j * 32 + l] = scale * ((b[q + l]! >> shift) & 15) - minimum;
  }
});

const q5_k = quantised('Q5_K', 256, 176, (b, at, y, out, half) => {
  const d = half[u16(b, at)]!;
  const dmin = half[u16(b, at + 2)]!;
  for (let j = 0; j < 8; j++) {
    const scale = d * scaleOf(b, at + 4, j);
    const minimum = dmin * minimumOf(b, at + 4, j);
    const high = at + 16;
    const low = at + 48 + (j >> 1) * 32;
    const shift = (j & 1) * 4;
    for (let l = 0; l < 32; l++) {
      const q = ((b[low + l]! >> shift) & 15) | (((b[high + l]! >> j) & 1) << 4);
      y[out + j * 32 + l] = scale * q - minimum;
    }
  }
});

const q6_k = quantised('Q6_K', 256, 210, (b, at, y, out, half) => {
  const d = half[u16(b, at + 208)]!;
  for (let n = 0; n < 2; n++) {
    const low = at + n * 64;
    const high = at + 128 + n * 32;
    const scales = at + 192 + n * 8;
    for (let l = 0; l < 32; l++) {
      for (let quarter = 0; quarter < 4; quarter++) {
        const nibble = (b[low + l + (quarter & 1) * 32]! >> ((quarter >> 1) * 4)) & 15;
        const q = (nibble | (((b[high + l]! >> (2 * quarter)) & 3) << 4)) - 32;
        const scale = (b[scales + quarter * 2 + (l >> 4)]! << 24) >> 24;
        y[out + n * 128 + quarter * 32 + l] = d * scale * q;
      }
    }
  }
});

/** By ggml's number. Numbers that are absent were withdrawn. */
export const ggmlTypes: ReadonlyMap<number, GgmlType> = new Map([
  [0, float('F32', 4)],
  [1, float('F16', 2)],
  [2, q4_0],
  [3, q4_1],
  [6, q5_0],
  [7, q5_1],
  [8, q8_0],
  [9, { name: 'Q8_1', block: 32, bytes: 36 }],
  [10, { name: 'Q2_K', block: 256, bytes: 84 }],
  [11, { name: 'Q3_K', block: 256, bytes: 110 }],
  [12, q4_k],
  [13, q5_k],
  [14, q6_k],
  [15, { name: 'Q8_K', block: 256, bytes: 292 }],
  [16, { name: 'IQ2_XXS', block: 256, bytes: 66 }],
  [17, { name: 'IQ2_XS', block: 256, bytes: 74 }],
  [18, { name: 'IQ3_XXS', block: 256, bytes: 98 }],
  [19, { name: 'IQ1_S', block: 256, bytes: 50 }],
  [20, { name: 'IQ4_NL', block: 32, bytes: 18 }],
  [21, { name: 'IQ3_S', block: 256, bytes: 110 }],
  [22, { name: 'IQ2_S', block: 256, bytes: 82 }],
  [23, { name: 'IQ4_XS', block: 256, bytes: 136 }],
  [24, plain('I8', 1)],
  [25, plain('I16', 2)],
  [26, plain('I32', 4)],
  [27, plain('I64', 8)],
  [28, float('F64', 8)],
  [29, { name: 'IQ1_M', block: 256, bytes: 56 }],
  [30, float('BF16', 2)],
  [34, { name: 'TQ1_0', block: 256, bytes: 54 }],
  [35, { name: 'TQ2_0', block: 256, bytes: 66 }],
  [39, { name: 'MXFP4', block: 32, bytes: 17 }],
]);

export const readableGgmlTypes: readonly string[] = [...ggmlTypes.values()]
  .filter((type) => type.dequantise !== undefined)
  .map((type) => type.name);
