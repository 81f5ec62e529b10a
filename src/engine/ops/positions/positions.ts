/** Each token's place in its row: i32 [B, T] of any ids ─▶ i32 [B, T] of 0, 1, 2 … What models with absolute positions read. */
import { bytesOf, type OpDefinition, type Value } from '../../graph/types.ts';
import { flatGrid } from '../wgsl.ts';

export const positionsOp: OpDefinition = {
  name: 'positions',

  infer([ids]) {
    if (ids!.dtype !== 'i32' || ids!.shape.length !== 2)
      throw new RangeError(`positions: of ${ids!.dtype}[${ids!.shape}]`);
    return [ids!];
  },

  cost: (_, [out]) => ({ flops: 0, bytes: bytesOf(out!) }),

  reference: ([ids]) => [{ shape: ids!.shape, data: ids!.data.map((_, i) => i % ids!.shape[1]!) }],

  kernel({ outputs: [out] }) {
    const grid = flatGrid(out!.size);
    return [
      {
        label: `positions ${out!.shape.join('x')}`,
        bindings: [{ name: 'out', operand: out!, access: 'write' }],
        code: `${grid.entry} {
  ${grid.index}
  out[i] = i32(i % ${out!.shape[1]!}u);
}`,
        workgroups: grid.workgroups,
      },
    ];
  },
};

/** @param ids i32 [B, T], only for their shape */
export function positions(ids: Value): Value {
  return ids.graph.apply(positionsOp, [ids])[0]!;
}
