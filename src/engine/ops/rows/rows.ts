/**
 * Consecutive rows of a table taken out, and put in the place of a table's own: an embedding whose last rows are trained
 * while the rest is frozen. Each is the other's gradient.
 *
 *   takeRows     table [V, H] ─▶ rows first .. first + count − 1
 *   replaceRows  table [V, H], rows [count, H] ─▶ the table with these rows from `first` on
 */
import { bytesOf, showType, type Dispatch, type OpDefinition, type Value } from '../../graph/types.ts';
import { commonWindows, locate, windowsOf } from '../../graph/windows.ts';
import { scale } from '../scale/scale.ts';
import { flatGrid } from '../wgsl.ts';

type TakeAttributes = { first: number; count: number };
type ReplaceAttributes = { first: number };

export const takeRowsOp: OpDefinition<TakeAttributes> = {
  name: 'take-rows',
  infer([table], { first, count }) {
    const [V, H] = table!.shape;
    if (table!.shape.length !== 2 || first < 0 || count < 1 || first + count > (V as number)) {
      throw new RangeError(`takeRows: ${count} rows from ${first} of ${showType(table!)}`);
    }
    return [{ shape: [count, H!], dtype: 'f32' }];
  },
  cost: (_, [rows]) => ({ flops: 0, bytes: 2 * bytesOf(rows!) }),
  reference([table], { first, count }) {
    const H = table!.shape[1]!;
    return [{ shape: [count, H], data: table!.data.slice(first * H, (first + count) * H) }];
  },
  kernel({ inputs: [table], outputs: [rows], attributes: { first, count } }) {
    const H = rows!.shape[1]!;
    return commonWindows(count, [{ operand: table!, first }]).map((window): Dispatch => {
      const start = window.start * H;
      const grid = flatGrid(window.rows * H);
      const { operand, offset } = locate(table!, first + window.start);
      return {
        label: `take-rows ${window.rows}x${H}`,
        bindings: [
          { name: 'table', operand, access: 'read' },
          { name: 'rows', operand: rows!, access: 'write' },
        ],
        code: `${grid.entry} {
  ${grid.index}
  rows[i + ${start}u] = table[i + ${offset}u];
}`,
        workgroups: grid.workgroups,
      };
    });
  },
};

export const replaceRowsOp: OpDefinition<ReplaceAttributes> = {
  name: 'replace-rows',
  infer([table, rows], { first }) {
    const [V, H] = table!.shape;
    const [count, width] = rows!.shape;
    const fits = table!.shape.length === 2 && rows!.shape.length === 2 && H === width;
    if (!fits || first < 0 || first + (count as number) > (V as number)) {
      throw new RangeError(`replaceRows: ${showType(rows!)} from ${first} in ${showType(table!)}`);
    }
    return [table!];
  },
  cost: ([table]) => ({ flops: 0, bytes: 2 * bytesOf(table!) }),
  gradient(node, [g], needed) {
    const rows = node.inputs[1]!;
    const { first } = node.attributes as ReplaceAttributes;
    return [
      needed[0] ? replaceRows(g!, scale(rows, 0), first) : undefined,
      needed[1] ? takeRows(g!, first, rows.type.shape[0] as number) : undefined,
    ];
  },
  reference([table, rows], { first }) {
    const data = table!.data.slice();
    data.set(rows!.data, first * table!.shape[1]!);
    return [{ shape: table!.shape, data }];
  },
  kernel({ inputs: [table, rows], outputs: [out], attributes: { first } }) {
    const [count, H] = rows!.shape as [number, number];
    return windowsOf(out!).map((window): Dispatch => {
      const grid = flatGrid(window.operand.size);
      const [from, to] = [first, first + count].map(
        (row) => Math.min(Math.max(row - window.start, 0), window.rows) * H,
      );
      const ahead = (window.start - first) * H;
      return {
        label: `replace-rows ${window.rows}x${H}`,
        bindings: [
          { name: 'table', operand: locate(table!, window.start).operand, access: 'read' },
          { name: 'rows', operand: rows!, access: 'read' },
          { name: 'out', operand: window.operand, access: 'write' },
        ],
        code: `${grid.entry} {
  ${grid.index}
  if (i >= ${from}u && i < ${to}u) { out[i] = rows[i ${ahead < 0 ? '-' : '+'} ${Math.abs(ahead)}u]; } else { out[i] = table[i]; }
}`,
        workgroups: grid.workgroups,
      };
    });
  },
};

export function takeRows(table: Value, first: number, count: number): Value {
  return table.graph.apply(takeRowsOp as OpDefinition, [table], { first, count })[0]!;
}

export function replaceRows(table: Value, rows: Value, first: number): Value {
  return table.graph.apply(replaceRowsOp as OpDefinition, [table, rows], { first })[0]!;
}
