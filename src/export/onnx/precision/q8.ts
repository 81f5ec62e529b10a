/**
 * q8: matrices in eight bits with a scale an output channel.
 *
 *   W ≈ scale_n · (w − 128),  w = round(W / scale_n) + 128,  scale_n = max |W_n| / 127
 *
 * Two ways to multiply with them, both as exact as the weights' eight bits allow:
 *
 *   unpacked   scale · (w − 128) is a constant expression: the runtime works it out while it opens the file, and
 *              multiplies in single precision. A quarter to download, the speed of fp32, the memory of fp32.
 *   integers   MatMulInteger, for models whose single precision would not fit into WebAssembly's 4 GiB. Activations in
 *              eight bits are not enough (measured on SmolLM2-135M: logits off by 0.24 of the largest, with a scale a
 *              token, for a few channels are a hundred times as large as the rest; by 0.055 with exact activations), so
 *              they go in as two planes of eight bits, one the rest of the other, through one product:
 *                x ≈ scale_t · (q₁ + q₂ / 254),  scale_t = max |x_t| / 127
 *
 * (DequantizeLinear before each product is what is kept out of constant folding: measured ten times slower a token.)
 * Bytes are unsigned around 128 on both sides: unsigned by signed saturates in the 16-bit sums of x86 without VNNI. An
 * embedding keeps the same bytes and scales; where it is tied, the head reads them too.
 */
import { concrete, sizeOf } from '../../../engine/graph/types.ts';
import { bytesOfView, type Lowering } from '../lowering.ts';
import { transpose, type Matrix, type Precision } from './precision.ts';
import { readTwice } from './read-twice.ts';

const ZERO = 128;
const LARGEST = 127;
/** Steps of the second plane in one of the first: 127 to either side. */
const FINE = 254;
/** Entries of all matrices up to which they are unpacked: 1.6 GB in single precision. */
const LARGEST_UNPACKED = 4e8;

type Bytes = Uint8Array<ArrayBuffer>;

/** Rows are the channels that have a scale each. */
export function quantizeRows(
  data: Float32Array,
  rows: number,
  columns: number,
): { values: Bytes; scales: Float32Array<ArrayBuffer> } {
  const values = new Uint8Array(rows * columns);
  const scales = new Float32Array(rows);
  for (let r = 0; r < rows; r++) {
    const end = (r + 1) * columns;
    let largest = 0;
    for (let i = r * columns; i < end; i++) largest = Math.max(largest, Math.abs(data[i]!));
    const scale = Math.fround(largest / LARGEST) || 1;
    scales[r] = scale;
    for (let i = r * columns; i < end; i++) values[i] = Math.round(data[i]! / scale) + ZERO;
  }
  return { values, scales };
}

/** Bytes [outputs, inputs] where the matrix is also an embedding, else [inputs, outputs]; and a scale for each output. */
function stored(c: Lowering, { name, rows, columns, transposed, tied }: Matrix): { values: string; scales: string } {
  const outputs = transposed ? rows : columns;
  const inputs = transposed ? columns : rows;
  const read = readTwice(async () => {
    const data = await c.readWeight(name);
    return quantizeRows(transposed ? data : transpose(data, rows, columns), outputs, inputs);
  });
  const values = c.initializer({
    name: `${name}.uint8`,
    type: 'UINT8',
    shape: tied ? [outputs, inputs] : [inputs, outputs],
    data: async () => {
      const { values } = await read();
      return tied ? values : turned(values, outputs, inputs);
    },
  });
  const scales = c.initializer({
    name: `${name}.scale`,
    type: 'FLOAT',
    shape: [outputs],
    data: async () => bytesOfView((await read()).scales),
  });
  return { values, scales };
}

function turned(values: Bytes, rows: number, columns: number): Bytes {
  const out = new Uint8Array(values.length);
  for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++) out[c * rows + r] = values[r * columns + c]!;
  return out;
}

/** The matrix as it multiplies from the right: bytes [inputs, outputs]. */
function factor(c: Lowering, matrix: Matrix): { values: string; scales: string } {
  const { values, scales } = stored(c, matrix);
  return { values: matrix.tied ? c.emit('Transpose', [values], { perm: { ints: [1, 0] } }) : values, scales };
}

function centred(c: Lowering, bytes: string): string {
  return c.emit('Sub', [c.cast(bytes, 'UINT8', 'FLOAT'), c.float(ZERO)]);
}

function unpacked(c: Lowering, x: string, matrix: Matrix): string {
  const { values, scales } = factor(c, matrix);
  return c.emit('MatMul', [x, c.emit('Mul', [centred(c, values), scales])]);
}

function integers(c: Lowering, x: string, matrix: Matrix): string {
  const scale = c.once(`scale of ${x}`, () => {
    const largest = c.emit('ReduceMax', [c.emit('Abs', [x]), c.ints([-1])], { keepdims: { int: 1 } });
    // a row of zeros must not divide by zero
    return c.emit('Div', [c.emit('Max', [largest, c.float(1e-12)]), c.float(LARGEST)]);
  });
  // both planes one after the other along the tokens
  const planes = c.once(`bytes of ${x}`, () => {
    const levels = c.emit('Div', [x, scale]);
    const coarse = c.emit('Round', [levels]);
    const fine = c.emit('Round', [c.emit('Mul', [c.emit('Sub', [levels, coarse]), c.float(FINE)])]);
    const both = c.emit('Concat', [coarse, fine], { axis: { int: 1 } });
    return c.cast(c.emit('Add', [both, c.float(ZERO)]), 'FLOAT', 'UINT8');
  });
  const { values, scales } = factor(c, matrix);
  const sums = c.emit('MatMulInteger', [planes, values, c.byte(ZERO), c.byte(ZERO)]);
  const products = c.emit('Cast', [sums], { to: { int: 1 } });
  const [coarse, fine] = c.emitMany('Split', [products], 2, { axis: { int: 1 }, num_outputs: { int: 2 } });
  const levels = c.emit('Add', [coarse!, c.emit('Mul', [fine!, c.float(1 / FINE)])]);
  return c.emit('Mul', [c.emit('Mul', [levels, scale]), scales]);
}

function entries(c: Lowering): number {
  let sum = 0;
  for (const { value } of c.graph.parameters())
    if (value.type.shape.length === 2) sum += sizeOf(concrete(value.type.shape));
  return sum;
}

export function q8Precision(largestUnpacked = LARGEST_UNPACKED): Precision {
  return {
    dtype: 'q8',
    float: 'FLOAT',
    domains: {},
    linear(c, x, matrix) {
      const multiply = entries(c) <= largestUnpacked ? unpacked : integers;
      return { name: multiply(c, x, matrix), type: 'FLOAT' };
    },
    rows(c, ids, matrix) {
      const { values, scales } = stored(c, { ...matrix, tied: true });
      const scale = c.emit('Unsqueeze', [c.emit('Gather', [scales, ids]), c.ints([-1])]);
      return { name: c.emit('Mul', [centred(c, c.emit('Gather', [values, ids])), scale]), type: 'FLOAT' };
    },
  };
}

export const q8 = q8Precision();
