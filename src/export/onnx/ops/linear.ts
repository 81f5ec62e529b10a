/** Products: with a weight (stored as the precision wants it), or of two activations. Embeddings gather its rows. */
import type { Value } from '../../../engine/graph/types.ts';
import type { Lowering, OpLowering } from '../lowering.ts';
import { matrixOf } from '../precision/precision.ts';

export const matmul: OpLowering = (c, { inputs: [a, b], attributes }) => {
  const source = c.graph.sourceOf(b!);
  if (source?.kind === 'parameter' && attributes.transA !== true) {
    return [c.precision.linear(c, c.get(a!), matrixOf(c, source, attributes.transB === true))];
  }
  const factor = (value: Value, turned: boolean): string => (turned ? turn(c, c.get(value), value) : c.get(value));
  const product = c.emit('MatMul', [factor(a!, attributes.transA === true), factor(b!, attributes.transB === true)]);
  return [{ name: product, type: c.precision.float }];
};

function turn(c: Lowering, name: string, value: Value): string {
  const axes = value.type.shape.map((_, i) => i);
  const perm = [...axes.slice(0, -2), axes.at(-1)!, axes.at(-2)!];
  return c.emit('Transpose', [name], { perm: { ints: perm } });
}

/** [1, tokens]: the same for every row of a batch, which what they are added to brings. */
export const positions: OpLowering = (c, { inputs: [ids] }) => {
  const tokens = c.emit('Squeeze', [c.dim(ids!.type.shape[1]!), c.ints([0])]);
  const row = c.emit('Range', [c.int(0), tokens, c.int(1)]);
  return [{ name: c.emit('Unsqueeze', [row, c.ints([0])]), type: 'INT64' }];
};

export const embedding: OpLowering = (c, { inputs: [table, ids] }) => [
  c.precision.rows(c, c.get(ids!), matrixOf(c, c.graph.sourceOf(table!)!, true)),
];
