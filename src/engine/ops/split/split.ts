/**
 * The last axis cut into parts (a fused q, k, v), and parts joined along it: each is the other's gradient.
 *
 *   split   [.., a + b + c] ─▶ [.., a], [.., b], [.., c]
 *   concat  and back
 */
import { bytesOf, sizeOf, type Dispatch, type OpDefinition, type Operand, type Value } from '../../graph/types.ts';
import { commonWindows, locate, matrixOf } from '../../graph/windows.ts';
import { scale } from '../scale/scale.ts';
import { flatGrid } from '../wgsl.ts';

type SplitAttributes = { sizes: readonly number[] };

export const splitOp: OpDefinition<SplitAttributes> = {
  name: 'split',

  infer([x], { sizes }) {
    const width = x!.shape.at(-1);
    if (sizes.reduce((sum, size) => sum + size, 0) !== width) {
      throw new RangeError(`split: parts of ${sizes.join(', ')} from [${x!.shape}]`);
    }
    return sizes.map((size) => ({ shape: [...x!.shape.slice(0, -1), size], dtype: 'f32' }));
  },

  cost: ([x]) => ({ flops: 0, bytes: 2 * bytesOf(x!) }),

  // a part that nothing depends on has a gradient of zeros
  gradient: (node, gradients) => [concat(node.outputs.map((part, i) => gradients[i] ?? scale(part, 0)))],

  reference([x], { sizes }, outputs) {
    const width = x!.shape.at(-1)!;
    return sizes.map((size, part) => {
      const start = sizes.slice(0, part).reduce((sum, other) => sum + other, 0);
      const shape = outputs[part]!.shape as number[];
      const data = Float64Array.from({ length: sizeOf(shape) }, (_, i) => {
        return x!.data[Math.floor(i / size) * width + start + (i % size)]!;
      });
      return { shape, data };
    });
  },

  kernel: ({ inputs: [x], outputs }) => copies(x!, outputs, 'split'),
};

export const concatOp: OpDefinition = {
  name: 'concat',

  infer(parts) {
    const lead = parts[0]!.shape.slice(0, -1);
    if (parts.some(({ shape }) => String(shape.slice(0, -1)) !== String(lead))) {
      throw new RangeError(`concat: ${parts.map(({ shape }) => `[${shape}]`).join(', ')}`);
    }
    const width = parts.reduce((sum, { shape }) => sum + (shape.at(-1) as number), 0);
    return [{ shape: [...lead, width], dtype: 'f32' }];
  },

  cost: (_, [out]) => ({ flops: 0, bytes: 2 * bytesOf(out!) }),

  gradient: (node, [g]) =>
    split(
      g!,
      node.inputs.map(({ type }) => type.shape.at(-1) as number),
    ),

  reference(parts, _, [out]) {
    const shape = out!.shape as number[];
    const width = shape.at(-1)!;
    const data = new Float64Array(sizeOf(shape));
    let start = 0;
    for (const part of parts) {
      const size = part.shape.at(-1)!;
      part.data.forEach((value, i) => (data[Math.floor(i / size) * width + start + (i % size)] = value));
      start += size;
    }
    return [{ shape, data }];
  },

  kernel: ({ inputs, outputs: [out] }) => copies(out!, inputs, 'concat'),
};

/** A dispatch a part, between it and its columns of the whole; one for each window of rows where either lies in several. */
function copies(whole: Operand, parts: readonly Operand[], to: 'split' | 'concat'): Dispatch[] {
  const sizes = parts.map(({ shape }) => shape.at(-1)!);
  const width = sizes.every((size) => size % 4 === 0) ? 4 : 1;
  const element = width === 4 ? 'vec4<f32>' : 'f32';
  const columns = whole.shape.at(-1)! / width;
  let first = 0;
  return parts.flatMap((part, n) => {
    const size = sizes[n]! / width;
    const at = `(i / ${size}u) * ${columns}u + ${first}u + i % ${size}u`;
    first += size;
    const windows = commonWindows(matrixOf(whole).rows, [
      { operand: whole, first: 0 },
      { operand: part, first: 0 },
    ]);
    return windows.map(({ start, rows }): Dispatch => {
      const grid = flatGrid(rows * size);
      const rowsOf = (operand: Operand) => ({ ...locate(operand, start), length: rows * matrixOf(operand).width });
      return {
        label: `${to} ${rows}x${sizes[n]}`,
        bindings: [
          { name: 'whole', ...rowsOf(whole), access: to === 'concat' ? 'write' : 'read', element },
          { name: 'part', ...rowsOf(part), access: to === 'split' ? 'write' : 'read', element },
        ],
        code: `${grid.entry} {
  ${grid.index}
  ${to === 'split' ? `part[i] = whole[${at}];` : `whole[${at}] = part[i];`}
}`,
        workgroups: grid.workgroups,
      };
    });
  });
}

/** @param sizes of the parts; their sum is the last axis of x */
export function split(x: Value, sizes: readonly number[]): readonly Value[] {
  return x.graph.apply(splitOp as OpDefinition, [x], { sizes });
}

/** @param parts alike but for their last axis */
export function concat(parts: readonly Value[]): Value {
  return parts[0]!.graph.apply(concatOp, parts)[0]!;
}
