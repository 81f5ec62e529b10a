/** f32 weights into the blocks that the engine's kernels read (engine/graph/packing.ts says what they hold), and back. */
import { BLOCKS, NF4, packedWords, type PackedDType } from '../engine/graph/packing.ts';
import { f16BitsToNumber, numberToF16Bits } from './half.ts';

export function pack(dtype: PackedDType, data: Float32Array): Int32Array<ArrayBuffer> {
  const words = new Int32Array(packedWords(dtype, data.length));
  const floats = new Float32Array(words.buffer);
  const { numbers, words: each } = BLOCKS[dtype];
  for (let start = 0, at = 0; start < data.length; start += numbers, at += each) {
    const end = Math.min(start + numbers, data.length);
    if (dtype === 'f16') {
      for (let i = start; i < end; i++) words[at]! |= numberToF16Bits(data[i]!) << (16 * (i - start));
      continue;
    }
    let extreme = 0;
    for (let i = start; i < end; i++) if (Math.abs(data[i]!) > Math.abs(extreme)) extreme = data[i]!;
    if (dtype === 'int8') {
      const largest = (floats[at] = Math.abs(extreme));
      for (let i = start; i < end; i++) {
        const q = largest === 0 ? 0 : Math.round((127 * data[i]!) / largest);
        words[at + 1 + ((i - start) >> 2)]! |= (q & 255) << (8 * (i & 3));
      }
    } else if (dtype === 'nf4') {
      const largest = (floats[at] = Math.abs(extreme));
      for (let i = start; i < end; i++) {
        words[at + 1 + ((i - start) >> 3)]! |= nearestNf4(largest === 0 ? 0 : data[i]! / largest) << (4 * (i & 7));
      }
    } else {
      const scale = (floats[at] = extreme / -8);
      for (let i = start; i < end; i++) {
        const q = scale === 0 ? 8 : Math.min(15, Math.round(data[i]! / scale + 8));
        words[at + 1 + ((i - start) >> 3)]! |= q << (4 * (i & 7));
      }
    }
  }
  return words;
}

/** The numbers that the kernels read. */
export function unpack(dtype: PackedDType, words: Int32Array, count: number): Float32Array<ArrayBuffer> {
  const floats = new Float32Array(words.buffer, words.byteOffset, words.length);
  const { numbers, words: each } = BLOCKS[dtype];
  const data = new Float32Array(count);
  for (let i = 0; i < count; i++) {
    const at = Math.floor(i / numbers) * each;
    const within = i % numbers;
    if (dtype === 'f16') data[i] = f16BitsToNumber((words[at]! >>> (16 * within)) & 0xffff);
    else if (dtype === 'int8')
      data[i] = (floats[at]! * ((words[at + 1 + (within >> 2)]! << (24 - 8 * (within & 3))) >> 24)) / 127;
    else {
      const q = (words[at + 1 + (within >> 3)]! >>> (4 * (within & 7))) & 15;
      data[i] = floats[at]! * (dtype === 'nf4' ? NF4[q]! : q - 8);
    }
  }
  return data;
}

function nearestNf4(value: number): number {
  let nearest = 0;
  NF4.forEach((code, q) => {
    if (Math.abs(code - value) < Math.abs(NF4[nearest]! - value)) nearest = q;
  });
  return nearest;
}
