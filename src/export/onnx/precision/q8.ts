/**
 * q8: matrices in eight bits with a scale an output channel, multiplied as integers.
 *
 *   W ≈ scale_n · (w − 128),  w = round(W / scale_n) + 128,  scale_n = max |W_n| / 127
 *   x ≈ scale_t · (q − 128),  the same with a scale a token: one token with a large entry (the first often has one)
 *                             must not take the resolution of all others, as a scale a tensor does
 *   y = scale_t · scale_n · MatMulInteger(q, w)
 *
 * Both sides are unsigned around 128: unsigned by signed saturates in the 16-bit sums of x86 without VNNI. An embedding
 * keeps the same bytes and scales; where it is tied, the head reads them too.
 */
import { bytesOfView, type Lowering } from '../lowering.ts';
import { transpose, type Matrix, type Precision } from './precision.ts';

const ZERO = 128;
const LARGEST = 127;

/** Rows are the channels that have a scale each. */
export function quantizeRows(
  data: Float32Array,
  rows: number,
  columns: number,
): { values: Uint8Array; scales: Float32Array } {
  const values = new Uint8Array(rows * columns);
  const scales = new Float32Array(rows);
  for (let r = 0; r < rows; r++) {
    let largest = 0;
    for (let i = r * columns; i < (r + 1) * columns; i++) largest = Math.max(largest, Math.abs(data[i]!));
    const scale = Math.fround(largest / LARGEST) || 1;
    scales[r] = scale;
    for (let i = r * columns; i < (r + 1) * columns; i++) values[i] = Math.round(data[i]! / scale) + ZERO;
  }
  return { values, scales };
}

interface Quantized {
  /** Channels of the output. */
  readonly channels: number;
  readonly inputs: number;
  /** [channels, inputs] of the matrix; a scale for each channel. */
  readonly read: () => Promise<{ values: Uint8Array; scales: Float32Array }>;
}

function quantized(c: Lowering, { name, rows, columns, transposed }: Matrix): Quantized {
  const channels = transposed ? rows : columns;
  const inputs = transposed ? columns : rows;
  return {
    channels,
    inputs,
    read: async () => {
      const data = await c.readWeight(name);
      return quantizeRows(transposed ? data : transpose(data, rows, columns), channels, inputs);
    },
  };
}

function transposeBytes(values: Uint8Array, rows: number, columns: number): Uint8Array {
  const out = new Uint8Array(values.length);
  for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++) out[c * rows + r] = values[r * columns + c]!;
  return out;
}

function scalesOf(c: Lowering, matrix: Matrix): string {
  const { channels, read } = quantized(c, matrix);
  return c.initializer({
    name: `${matrix.name}.scale`,
    type: 'FLOAT',
    shape: [channels],
    data: async () => bytesOfView((await read()).scales),
  });
}

/** The bytes as rows of channels: what an embedding gathers. */
function storedRows(c: Lowering, matrix: Matrix): string {
  const { channels, inputs, read } = quantized(c, matrix);
  return c.initializer({
    name: `${matrix.name}.uint8`,
    type: 'UINT8',
    shape: [channels, inputs],
    data: async () => (await read()).values,
  });
}

function storedColumns(c: Lowering, matrix: Matrix): string {
  const { channels, inputs, read } = quantized(c, matrix);
  return c.initializer({
    name: `${matrix.name}.uint8.transposed`,
    type: 'UINT8',
    shape: [inputs, channels],
    data: async () => transposeBytes((await read()).values, channels, inputs),
  });
}

/** Activations as bytes and their scale a token; shared by all matrices that read them. */
function quantizedActivations(c: Lowering, x: string): { values: string; scale: string } {
  const scale = c.once(`scale of ${x}`, () => {
    const largest = c.emit('ReduceMax', [c.emit('Abs', [x]), c.ints([-1])], { keepdims: { int: 1 } });
    // a row of zeros must not divide by zero
    return c.emit('Div', [c.emit('Max', [largest, c.float(1e-12)]), c.float(LARGEST)]);
  });
  const values = c.once(`bytes of ${x}`, () => {
    const rounded = c.emit('Round', [c.emit('Div', [x, scale])]);
    return c.cast(c.emit('Add', [rounded, c.float(ZERO)]), 'FLOAT', 'UINT8');
  });
  return { values, scale };
}

export const q8: Precision = {
  dtype: 'q8',
  float: 'FLOAT',
  domains: {},
  linear(c, x, matrix) {
    const { values, scale } = quantizedActivations(c, x);
    const weight = matrix.tied
      ? c.emit('Transpose', [storedRows(c, matrix)], { perm: { ints: [1, 0] } })
      : storedColumns(c, matrix);
    const sums = c.emit('MatMulInteger', [values, weight, c.byte(ZERO), c.byte(ZERO)]);
    const perToken = c.emit('Mul', [c.emit('Cast', [sums], { to: { int: 1 } }), scale]);
    return { name: c.emit('Mul', [perToken, scalesOf(c, matrix)]), type: 'FLOAT' };
  },
  rows(c, ids, matrix) {
    const bytes = c.emit('Gather', [storedRows(c, matrix), ids]);
    const centred = c.emit('Sub', [c.cast(bytes, 'UINT8', 'FLOAT'), c.float(ZERO)]);
    const scale = c.emit('Unsqueeze', [c.emit('Gather', [scalesOf(c, matrix), ids]), c.ints([-1])]);
    return { name: c.emit('Mul', [centred, scale]), type: 'FLOAT' };
  },
};
