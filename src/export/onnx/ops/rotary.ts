/**
 * Rotary positions on [batch, tokens, heads · head size], halves of a head rotated against each other:
 *
 *   [x1, x2] ─▶ [x1 cos − x2 sin, x2 cos + x1 sin], with the tables' rows at position_ids
 *
 * What lies beyond twice the tables' width is not rotated (partial rotary). Of two tables, the second counts for a batch
 * with a position past the first's rows (longrope).
 */
import type { Lowering, OpLowering } from '../lowering.ts';

export const rotary: OpLowering = (c, { inputs: [x, cos, sin, positions], attributes }) => {
  const headDim = attributes.head_dim as number;
  const half = cos!.type.shape[1] as number;
  const rows = rowsOf(c, c.get(positions!), attributes.long_after as number | undefined);
  const at = (table: string): string =>
    c.once(`${table} at ${rows}`, () => c.emit('Unsqueeze', [c.emit('Gather', [table, rows]), c.ints([2])]));
  const cosine = at(c.get(cos!));
  const sine = at(c.get(sin!));

  const heads = c.emit('Reshape', [c.get(x!), c.ints([0, 0, -1, headDim])]);
  const rest = headDim - 2 * half;
  const sizes = rest > 0 ? [half, half, rest] : [half, half];
  const [x1, x2, tail] = c.emitMany('Split', [heads, c.ints(sizes)], sizes.length, { axis: { int: -1 } });
  const first = c.emit('Sub', [c.emit('Mul', [x1!, cosine]), c.emit('Mul', [x2!, sine])]);
  const second = c.emit('Add', [c.emit('Mul', [x2!, cosine]), c.emit('Mul', [x1!, sine])]);
  const parts = tail === undefined ? [first, second] : [first, second, tail];
  const rotated = c.emit('Concat', parts, { axis: { int: -1 } });
  return [{ name: c.emit('Reshape', [rotated, c.ints([0, 0, -1])]), type: c.precision.float }];
};

function rowsOf(c: Lowering, positions: string, longAfter: number | undefined): string {
  if (longAfter === undefined) return positions;
  return c.once(`rows of ${positions}, two tables`, () => {
    const last = c.emit('ReduceMax', [positions], { keepdims: { int: 0 } });
    const first = c.emit('Where', [c.emit('Less', [last, c.int(longAfter)]), c.int(0), c.int(longAfter)]);
    return c.emit('Add', [positions, first]);
  });
}
