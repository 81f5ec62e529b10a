/** fp32 and fp16: matrices as they are, transposed on the CPU so that the file multiplies without transposing. */
import { f32ToF16 } from '../../../formats/half.ts';
import { bytesOfView, type Lowering } from '../lowering.ts';
import { transpose, type Matrix, type Precision } from './precision.ts';

function floatPrecision(dtype: 'fp32' | 'fp16', float: 'FLOAT' | 'FLOAT16'): Precision {
  const encode = (data: Float32Array<ArrayBuffer>): Uint8Array<ArrayBuffer> =>
    bytesOfView(float === 'FLOAT16' ? f32ToF16(data) : data);

  const stored = (c: Lowering, { name, rows, columns }: Matrix): string =>
    c.initializer({
      name,
      type: float,
      shape: [rows, columns],
      data: async () => encode(await c.readWeight(name)),
    });

  const storedTransposed = (c: Lowering, { name, rows, columns }: Matrix): string =>
    c.initializer({
      name: `${name}.transposed`,
      type: float,
      shape: [columns, rows],
      data: async () => encode(transpose(await c.readWeight(name), rows, columns)),
    });

  return {
    dtype,
    float,
    domains: {},
    linear(c, x, matrix) {
      const weight = !matrix.transposed
        ? stored(c, matrix)
        : matrix.tied
          ? c.emit('Transpose', [stored(c, matrix)], { perm: { ints: [1, 0] } })
          : storedTransposed(c, matrix);
      return { name: c.emit('MatMul', [x, weight]), type: float };
    },
    rows: (c, ids, matrix) => ({ name: c.emit('Gather', [stored(c, matrix), ids]), type: float }),
  };
}

export const fp32 = floatPrecision('fp32', 'FLOAT');
export const fp16 = floatPrecision('fp16', 'FLOAT16');
