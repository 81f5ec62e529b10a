/** The last row of each sequence, [B, T, C] ─▶ [B, 1, C]: what the next token is predicted from. */
import { bytesOf, type OpDefinition, type Value } from '../../graph/types.ts';
import { flatGrid } from '../wgsl.ts';

export const lastRowOp: OpDefinition = {
  name: 'last-row',

  infer([x]) {
    if (x!.shape.length !== 3) throw new RangeError(`lastRow: [${x!.shape}] is not [B, T, C]`);
    return [{ shape: [x!.shape[0]!, 1, x!.shape[2]!], dtype: 'f32' }];
  },

  cost: (_, [out]) => ({ flops: 0, bytes: 2 * bytesOf(out!) }),

  reference([x], _, [out]) {
    const [B, T, C] = x!.shape as [number, number, number];
    const data = new Float64Array(B * C);
    for (let b = 0; b < B; b++) data.set(x!.data.subarray(((b + 1) * T - 1) * C, (b + 1) * T * C), b * C);
    return [{ shape: out!.shape as number[], data }];
  },

  kernel({ inputs: [x], outputs: [out] }) {
    const [, T, C] = x!.shape as [number, number, number];
    const grid = flatGrid(out!.size);
    return [
      {
        label: `last-row ${x!.shape.join('x')}`,
        bindings: [
          { name: 'x', operand: x!, access: 'read' },
          { name: 'out', operand: out!, access: 'write' },
        ],
        code: `${grid.entry} {
  ${grid.index}
  out[i] = x[((i / ${C}u + 1u) * ${T}u - 1u) * ${C}u + i % ${C}u];
}`,
        workgroups: grid.workgroups,
      },
    ];
  },
};

export function lastRow(x: Value): Value {
  return x.graph.apply(lastRowOp, [x])[0]!;
}
