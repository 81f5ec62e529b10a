/**
 * Rotary positions on [batch, tokens, heads · head size], halves of a head rotated against each other:
 *
 *   [x1, x2] ─▶ [x1 cos − x2 sin, x2 cos + x1 sin], with the tables' rows at position_ids
 *
 * What lies beyond twice the tables' width is not rotated (partial rotary). Of two tables, the second counts for a batch
 * with a position past the first's rows (longrope). With `stretch` a batch with a position past the tables is turned by angles
 * of its own length (dynamic scaling), computed in single precision in the order that transformers computes them.
 */
import type { Value } from '../../../engine/graph/types.ts';
import type { Stretch } from '../../../engine/ops/rotary/rotary.ts';
import { bytesOfView, type Lowering, type OpLowering } from '../lowering.ts';

export const rotary: OpLowering = (c, { inputs: [x, cos, sin, positions], attributes }) => {
  const headDim = attributes.head_dim as number;
  const half = cos!.type.shape[1] as number;
  const stretch = attributes.stretch as Stretch | undefined;
  const rows = rowsOf(c, c.get(positions!), attributes.long_after as number | undefined);
  const at = (value: Value, turn: 'Cos' | 'Sin'): string => {
    const table = c.get(value);
    return c.once(`${table} at ${rows}`, () => {
      const known = stretch ? stretched(c, table, turn, rows, stretch, cos!.type.shape as [number, number]) : undefined;
      return c.emit('Unsqueeze', [known ?? c.emit('Gather', [table, rows]), c.ints([2])]);
    });
  };
  const cosine = at(cos!, 'Cos');
  const sine = at(sin!, 'Sin');

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

/** The table's rows, or where a position lies past them the cosine or sine of the angles that its batch's length makes. */
function stretched(
  c: Lowering,
  table: string,
  turn: 'Cos' | 'Sin',
  positions: string,
  [theta, factor]: Stretch,
  [trained, half]: [number, number],
): string {
  const number = (value: number): string => c.float(value, 'FLOAT');
  const last = c.once(`last of ${positions}`, () => c.emit('ReduceMax', [positions], { keepdims: { int: 0 } }));
  const angles = c.once(`angles of ${positions}, ${theta} ${factor} ${trained} ${half}`, () => {
    const length = c.cast(c.emit('Add', [c.emit('Max', [last, c.int(trained - 1)]), c.int(1)]), 'INT64', 'FLOAT');
    const grown = c.emit('Div', [c.emit('Mul', [number(factor), length]), number(trained)]);
    const stretch = c.emit('Pow', [c.emit('Sub', [grown, number(factor - 1)]), number(half / (half - 1))]);
    const exponents = c.initializer({
      name: `exponents_${half}`,
      type: 'FLOAT',
      shape: [half],
      data: () => bytesOfView(Float32Array.from({ length: half }, (_, j) => j / half)),
    });
    const period = c.emit('Pow', [c.emit('Mul', [number(theta), stretch]), exponents]);
    const at = c.emit('Unsqueeze', [c.cast(positions, 'INT64', 'FLOAT'), c.ints([2])]);
    return c.emit('Mul', [at, c.emit('Reciprocal', [period])]);
  });
  const long = c.cast(c.emit(turn, [angles]), 'FLOAT', c.precision.float);
  const short = c.emit('Gather', [table, c.emit('Min', [positions, c.int(trained - 1)])]);
  return c.emit('Where', [c.emit('Less', [last, c.int(trained)]), short, long]);
}

function rowsOf(c: Lowering, positions: string, longAfter: number | undefined): string {
  if (longAfter === undefined) return positions;
  return c.once(`rows of ${positions}, two tables`, () => {
    const last = c.emit('ReduceMax', [positions], { keepdims: { int: 0 } });
    const first = c.emit('Where', [c.emit('Less', [last, c.int(longAfter)]), c.int(0), c.int(longAfter)]);
    return c.emit('Add', [positions, first]);
  });
}
