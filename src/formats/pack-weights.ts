/** f32 weights into the blocks that the engine's kernels read (engine/graph/packing.ts says what they hold), and back. */
import { BLOCKS, NF4, packedWords, type BlockKind, type PackedDType } from '../engine/graph/packing.ts';
import { f16BitsToNumber, f16ToF32, f32ToF16, numberToF16Bits } from './half.ts';

/** How one block is written and read: its words, the first of them also as f32, and its numbers (fewer in the last block). */
interface Coding {
  readonly write: (words: Int32Array, floats: Float32Array, numbers: Float32Array) => void;
  readonly read: (words: Int32Array, floats: Float32Array, i: number) => number;
}

const CODINGS: Record<BlockKind, Coding> = {
  int8: {
    write(words, floats, numbers) {
      const largest = (floats[0] = Math.abs(extremeOf(numbers)));
      if (largest > 0)
        for (let i = 0; i < numbers.length; i++) putByte(words, i, Math.round((127 * numbers[i]!) / largest));
    },
    read: (words, floats, i) => (floats[0]! * ((byteAt(words, i) << 24) >> 24)) / 127,
  },
  uint8: {
    write(words, _, numbers) {
      const [range, least] = writeRamp(words, numbers, 1);
      if (range > 0)
        for (let i = 0; i < numbers.length; i++) putByte(words, i, within(255, (255 * (numbers[i]! - least)) / range));
    },
    read(words, _, i) {
      const [range, least] = readRamp(words);
      return least + (range * byteAt(words, i)) / 255;
    },
  },
  int4: {
    write(words, floats, numbers) {
      const scale = (floats[0] = extremeOf(numbers) / -8);
      for (let i = 0; i < numbers.length; i++)
        putNibble(words, i, scale === 0 ? 8 : within(15, numbers[i]! / scale + 8));
    },
    read: (words, floats, i) => floats[0]! * (nibbleAt(words, i) - 8),
  },
  uint4: {
    write(words, _, numbers) {
      const [step, least] = writeRamp(words, numbers, 15);
      if (step > 0)
        for (let i = 0; i < numbers.length; i++) putNibble(words, i, within(15, (numbers[i]! - least) / step));
    },
    read(words, _, i) {
      const [step, least] = readRamp(words);
      return least + step * nibbleAt(words, i);
    },
  },
  nf4: {
    write(words, floats, numbers) {
      const largest = (floats[0] = Math.abs(extremeOf(numbers)));
      for (let i = 0; i < numbers.length; i++)
        putNibble(words, i, nearestNf4(largest === 0 ? 0 : numbers[i]! / largest));
    },
    read: (words, floats, i) => floats[0]! * NF4[nibbleAt(words, i)]!,
  },
};

export function pack(dtype: PackedDType, data: Float32Array): Int32Array<ArrayBuffer> {
  const words = new Int32Array(packedWords(dtype, data.length));
  const { kind, numbers, words: each } = BLOCKS[dtype];
  if (kind === 'f16') {
    new Uint16Array(words.buffer).set(f32ToF16(data));
    return words;
  }
  const floats = new Float32Array(words.buffer);
  for (let start = 0, at = 0; start < data.length; start += numbers, at += each) {
    const block = data.subarray(start, start + numbers);
    CODINGS[kind].write(words.subarray(at, at + each), floats.subarray(at, at + 1), block);
  }
  return words;
}

/** The numbers that the kernels read. */
export function unpack(dtype: PackedDType, words: Int32Array, count: number): Float32Array<ArrayBuffer> {
  const { kind, numbers, words: each } = BLOCKS[dtype];
  if (kind === 'f16') return f16ToF32(new Uint16Array(words.buffer, words.byteOffset, count));
  const floats = new Float32Array(words.buffer, words.byteOffset, words.length);
  const data = new Float32Array(count);
  for (let start = 0, at = 0; start < count; start += numbers, at += each) {
    const [block, first] = [words.subarray(at, at + each), floats.subarray(at, at + 1)];
    const end = Math.min(start + numbers, count);
    for (let i = start; i < end; i++) data[i] = CODINGS[kind].read(block, first, i - start);
  }
  return data;
}

/** The number of largest magnitude, with its sign. */
function extremeOf(numbers: Float32Array): number {
  let extreme = 0;
  for (const value of numbers) if (Math.abs(value) > Math.abs(extreme)) extreme = value;
  return extreme;
}

/**
 * Least number and what each of `steps` takes to the largest, into the first word as the halves nearest to them.
 * @returns what the halves hold: [step, least]
 */
function writeRamp(words: Int32Array, numbers: Float32Array, steps: number): [number, number] {
  let [least, most] = [Infinity, -Infinity];
  for (const value of numbers) {
    least = Math.min(least, value);
    most = Math.max(most, value);
  }
  const leastBits = halfBits(least);
  words[0] = (leastBits << 16) | halfBits((most - f16BitsToNumber(leastBits)) / steps);
  return readRamp(words);
}

const readRamp = (words: Int32Array): [number, number] => [
  f16BitsToNumber(words[0]! & 0xffff),
  f16BitsToNumber(words[0]! >>> 16),
];

/** The finite half nearest to a number. */
const halfBits = (value: number): number => numberToF16Bits(Math.min(Math.max(value, -65504), 65504));

const within = (most: number, code: number): number => Math.min(Math.max(Math.round(code), 0), most);

function putByte(words: Int32Array, i: number, byte: number): void {
  words[1 + (i >> 2)]! |= (byte & 255) << (8 * (i & 3));
}
const byteAt = (words: Int32Array, i: number): number => (words[1 + (i >> 2)]! >>> (8 * (i & 3))) & 255;

function putNibble(words: Int32Array, i: number, nibble: number): void {
  words[1 + (i >> 3)]! |= nibble << (4 * (i & 7));
}
const nibbleAt = (words: Int32Array, i: number): number => (words[1 + (i >> 3)]! >>> (4 * (i & 7))) & 15;

const NF4_MIDDLES = NF4.slice(1).map((code, q) => (code + NF4[q]!) / 2);

function nearestNf4(value: number): number {
  let q = 0;
  for (let half = 8; half > 0; half >>= 1) if (value > NF4_MIDDLES[q + half - 1]!) q += half;
  return q;
}
