/**
 * q4 and q4f16: matrices in blocks of 32 numbers along the input, four bits each, with a scale a block, multiplied by
 * ONNX Runtime's MatMulNBits (com.microsoft): on WebGPU it never unpacks them. In the flavour `standard` the same bytes
 * are unpacked by plain operators, which a runtime works out once while it opens the file.
 *
 *   W ≈ scale · (w − 8),  w in 0 … 15, two a byte, the first in the low half
 *   scale: of some around (the block's entry of largest magnitude / −8), the one with the least squared error
 *
 * An embedding (and a head tied to it) keeps eight bits in the same blocks around 128: rows of four bits cost the most
 * quality for the fewest bytes saved.
 */
import { f32ToF16 } from '../../../formats/half.ts';
import { bytesOfView, type Lowering } from '../lowering.ts';
import { transpose, type Matrix, type Precision } from './precision.ts';
import { readTwice } from './read-twice.ts';

export const BLOCK = 32;
const DOMAIN = 'com.microsoft';
/** Products in integers of eight bits where the runtime has them, with sums in single precision. */
const ACCURACY_LEVEL = 4;

type Bits = 4 | 8;

export interface Blocks {
  /** [rows, blocks, 32 · bits / 8] */
  readonly values: Uint8Array<ArrayBuffer>;
  /** [rows, blocks] */
  readonly scales: Float32Array<ArrayBuffer>;
}

export function quantizeBlocks(data: Float32Array, rows: number, columns: number, bits: Bits): Blocks {
  const blocks = Math.ceil(columns / BLOCK);
  const zero = 2 ** (bits - 1);
  const last = 2 ** bits - 1;
  const blockBytes = (BLOCK * bits) / 8;
  const values = new Uint8Array(rows * blocks * blockBytes);
  const scales = new Float32Array(rows * blocks);
  for (let row = 0; row < rows; row++) {
    for (let block = 0; block < blocks; block++) {
      const from = row * columns + block * BLOCK;
      const to = Math.min(from + BLOCK, (row + 1) * columns);
      const scale = bestScale(data, from, to, bits);
      scales[row * blocks + block] = scale;
      const start = (row * blocks + block) * blockBytes;
      for (let i = 0; i < BLOCK; i++) {
        const value = from + i < to ? Math.min(last, Math.max(0, Math.round(data[from + i]! / scale) + zero)) : zero;
        if (bits === 8) values[start + i] = value;
        else values[start + (i >> 1)]! |= i % 2 === 0 ? value : value << 4;
      }
    }
  }
  return { values, scales };
}

/** Full ranges to try, as multiples of the block's largest entry; eight bits have resolution enough for the whole of it. */
const RANGES: Readonly<Record<Bits, readonly number[]>> = { 4: [1, 0.95, 0.9, 0.85, 0.8, 1.05, 1.1, -1, -0.9], 8: [1] };

function bestScale(data: Float32Array, from: number, to: number, bits: Bits): number {
  const zero = 2 ** (bits - 1);
  const last = zero - 1;
  let extreme = 0;
  for (let i = from; i < to; i++) if (Math.abs(data[i]!) > Math.abs(extreme)) extreme = data[i]!;
  if (extreme === 0) return 1;
  const ranges = RANGES[bits];
  if (ranges.length === 1) return extreme / -zero;
  let best = 1;
  let least = Infinity;
  for (const range of ranges) {
    const scale = (range * extreme) / -zero;
    let error = 0;
    for (let i = from; i < to; i++) {
      const level = Math.min(last, Math.max(-zero, Math.round(data[i]! / scale)));
      error += (data[i]! - level * scale) ** 2;
    }
    if (error < least) {
      least = error;
      best = scale;
    }
  }
  return best;
}

/** [rows, blocks, 16] of two numbers a byte ─▶ [rows, blocks, 32] of one */
function nibbles(c: Lowering, packed: string, rows: number): string {
  const low = c.emit('BitwiseAnd', [packed, c.byte(15)]);
  const high = c.emit('BitShift', [packed, c.byte(4)], { direction: { string: 'RIGHT' } });
  const pairs = [low, high].map((half) => c.emit('Unsqueeze', [half, c.ints([-1])]));
  return c.emit('Reshape', [c.emit('Concat', pairs, { axis: { int: -1 } }), c.ints([rows, -1, BLOCK])]);
}

/** (levels − zero) · scale a block, in the shape asked for. */
function dequantized(
  c: Lowering,
  levels: string,
  scales: string,
  zero: number,
  float: 'FLOAT' | 'FLOAT16',
  shape: string,
): string {
  const centred = c.emit('Sub', [c.cast(levels, 'UINT8', float), c.float(zero)]);
  return c.emit('Reshape', [c.emit('Mul', [centred, c.emit('Unsqueeze', [scales, c.ints([-1])])]), shape]);
}

function withoutPadding(c: Lowering, rows: string, inputs: number): string {
  if (inputs % BLOCK === 0) return rows;
  return c.emit('Slice', [rows, c.ints([0]), c.ints([inputs]), c.ints([-1])]);
}

function blockPrecision(dtype: 'q4' | 'q4f16', float: 'FLOAT' | 'FLOAT16'): Precision {
  const stored = (
    c: Lowering,
    matrix: Matrix,
    bits: Bits,
  ): { values: string; scales: string; inputs: number; outputs: number } => {
    const { name, rows, columns, transposed } = matrix;
    const outputs = transposed ? rows : columns;
    const inputs = transposed ? columns : rows;
    const blocks = Math.ceil(inputs / BLOCK);
    const read = readTwice(async () => {
      const data = await c.readWeight(name);
      return quantizeBlocks(transposed ? data : transpose(data, rows, columns), outputs, inputs, bits);
    });
    const values = c.initializer({
      name: `${name}.uint${bits}`,
      type: 'UINT8',
      shape: [outputs, blocks, (BLOCK * bits) / 8],
      data: async () => (await read()).values,
    });
    const scales = c.initializer({
      name: `${name}.scales`,
      type: float,
      shape: [outputs, blocks],
      data: async () => {
        const { scales } = await read();
        return bytesOfView(float === 'FLOAT16' ? f32ToF16(scales) : scales);
      },
    });
    return { values, scales, inputs, outputs };
  };

  return {
    dtype,
    float,
    domains: { [DOMAIN]: 1 },
    linear(c, x, matrix) {
      const bits: Bits = matrix.tied ? 8 : 4;
      const { values, scales, inputs, outputs } = stored(c, matrix, bits);
      if (c.flavour === 'standard') {
        const levels = bits === 8 ? values : nibbles(c, values, outputs);
        const rows = dequantized(c, levels, scales, 2 ** (bits - 1), float, c.ints([outputs, -1]));
        const weight = c.emit('Transpose', [withoutPadding(c, rows, inputs)], { perm: { ints: [1, 0] } });
        return { name: c.emit('MatMul', [x, weight]), type: float };
      }
      const attributes = {
        K: { int: inputs },
        N: { int: outputs },
        bits: { int: bits },
        block_size: { int: BLOCK },
        accuracy_level: { int: ACCURACY_LEVEL },
      };
      return { name: c.emit('MatMulNBits', [x, values, scales], attributes, { domain: DOMAIN }), type: float };
    },
    rows(c, ids, matrix) {
      const { values, scales, inputs } = stored(c, matrix, 8);
      const [bytes, scale] = [values, scales].map((table) => c.emit('Gather', [table, ids])) as [string, string];
      const rows = dequantized(c, bytes, scale, 128, float, c.ints([0, 0, -1]));
      return { name: withoutPadding(c, rows, inputs), type: float };
    },
  };
}

export const q4 = blockPrecision('q4', 'FLOAT');
export const q4f16 = blockPrecision('q4f16', 'FLOAT16');
