/**
 * Rows of a matrix times a number each: what DoRA makes of a head's weight, whose product with hidden states never exists.
 *
 *   scaleRows  a [V, H], s [V] ─▶ s_v · a_vh;  gradient: s_v · g_vh for a, Σ_h g_vh · a_vh for s
 *   rowDots    a, b [V, H]     ─▶ [V]: Σ_h a_vh · b_vh
 */
import {
  bytesOf,
  sameShape,
  showType,
  sizeOf,
  type Dispatch,
  type OpDefinition,
  type Value,
} from '../../graph/types.ts';
import { commonWindows, locate } from '../../graph/windows.ts';
import { flatGrid } from '../wgsl.ts';

export const scaleRowsOp: OpDefinition = {
  name: 'scale-rows',

  infer([a, s]) {
    if (a!.shape.length !== 2 || s!.shape.length !== 1 || a!.shape[0] !== s!.shape[0]) {
      throw new RangeError(`scaleRows: ${showType(a!)} and ${showType(s!)}`);
    }
    return [a!];
  },

  cost: ([a]) => ({ flops: sizeOf(a!.shape), bytes: 2 * bytesOf(a!) }),

  gradient(node, [g], needed) {
    const [a, s] = node.inputs as [Value, Value];
    return [needed[0] ? scaleRows(g!, s) : undefined, needed[1] ? rowDots(g!, a) : undefined];
  },

  reference([a, s]) {
    const width = a!.shape[1]!;
    return [{ shape: a!.shape, data: a!.data.map((value, i) => value * s!.data[Math.floor(i / width)]!) }];
  },

  kernel({ inputs: [a, s], outputs: [out] }) {
    const [count, width] = a!.shape as [number, number];
    const windows = commonWindows(count, [
      { operand: a!, first: 0 },
      { operand: out!, first: 0 },
    ]);
    return windows.map(({ start, rows }): Dispatch => {
      const [from, to] = [locate(a!, start), locate(out!, start)];
      const length = rows * width;
      const grid = flatGrid(length);
      return {
        label: `scale-rows ${rows}x${width}`,
        bindings: [
          { name: 'a', operand: from.operand, access: 'read', offset: from.offset, length },
          { name: 's', operand: s!, access: 'read' },
          { name: 'out', operand: to.operand, access: 'write', offset: to.offset, length },
        ],
        code: `${grid.entry} {
  ${grid.index}
  out[i] = s[i / ${width}u + ${start}u] * a[i];
}`,
        workgroups: grid.workgroups,
      };
    });
  },
};

/** Threads that share a row. */
const LANES = 16;

export const rowDotsOp: OpDefinition = {
  name: 'row-dots',

  infer([a, b]) {
    if (a!.shape.length !== 2 || !sameShape(a!.shape, b!.shape)) {
      throw new RangeError(`rowDots: ${showType(a!)} and ${showType(b!)}`);
    }
    return [{ shape: [a!.shape[0]!], dtype: 'f32' }];
  },

  cost: ([a, b]) => ({ flops: 2 * sizeOf(a!.shape), bytes: bytesOf(a!) + bytesOf(b!) }),

  reference([a, b], _, [out]) {
    const width = a!.shape[1]!;
    const sums = new Float64Array(a!.shape[0]!);
    a!.data.forEach((value, i) => (sums[Math.floor(i / width)]! += value * b!.data[i]!));
    return [{ shape: out!.shape as number[], data: sums }];
  },

  kernel({ inputs: [a, b], outputs: [out], scratch }) {
    const [count, width] = a!.shape as [number, number];
    const partial = scratch([count, LANES]);
    const joined = flatGrid(count);
    const windows = commonWindows(count, [
      { operand: a!, first: 0 },
      { operand: b!, first: 0 },
    ]);
    return [
      ...windows.map(({ start, rows }): Dispatch => {
        const [left, right] = [locate(a!, start), locate(b!, start)];
        const length = rows * width;
        const lanes = flatGrid(rows * LANES);
        return {
          label: `row-dots sums ${rows}x${width}`,
          bindings: [
            { name: 'a', operand: left.operand, access: 'read', offset: left.offset, length },
            { name: 'b', operand: right.operand, access: 'read', offset: right.offset, length },
            { name: 'partial_sums', operand: partial, access: 'write' },
          ],
          code: `${lanes.entry} {
  ${lanes.index}
  let row = i / ${LANES}u;
  var sum = 0.0;
  for (var c = i % ${LANES}u; c < ${width}u; c += ${LANES}u) { sum += a[row * ${width}u + c] * b[row * ${width}u + c]; }
  partial_sums[i + ${start * LANES}u] = sum;
}`,
          workgroups: lanes.workgroups,
        };
      }),
      {
        label: `row-dots ${count}`,
        bindings: [
          { name: 'partial_sums', operand: partial, access: 'read' },
          { name: 'out', operand: out!, access: 'write' },
        ],
        code: `${joined.entry} {
  ${joined.index}
  var sum = 0.0;
  for (var lane = 0u; lane < ${LANES}u; lane++) { sum += partial_sums[i * ${LANES}u + lane]; }
  out[i] = sum;
}`,
        workgroups: joined.workgroups,
      },
    ];
  },
};

/** @param s f32 [V], a factor for each row of a [V, H] */
export function scaleRows(a: Value, s: Value): Value {
  return a.graph.apply(scaleRowsOp, [a, s])[0]!;
}

/** Σ over the last axis of a ∘ b, f32 [V] */
export function rowDots(a: Value, b: Value): Value {
  return a.graph.apply(rowDotsOp, [a, b])[0]!;
}
