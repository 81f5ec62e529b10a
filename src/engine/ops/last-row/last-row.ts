/** The last token of every sequence: [B, T, C] ─▶ [B, 1, C]. Prompts are padded on the left, so that is where they end. */
import { bytesOf, type OpDefinition, type Value } from '../../graph/types.ts';
import { flatGrid } from '../wgsl.ts';

export const lastRowOp: OpDefinition = {
  name: 'last-row',
  infer: ([x]) => [{ shape: [x!.shape[0]!, 1, x!.shape[2]!], dtype: 'f32' }],
  cost: (_, [out]) => ({ flops: 0, bytes: 2 * bytesOf(out!) }),

  reference([x]) {
    const [batch, tokens, width] = x!.shape as [number, number, number];
    const data = new Float64Array(batch * width);
    for (let b = 0; b < batch; b++) {
      const from = (b * tokens + tokens - 1) * width;
      data.set(x!.data.subarray(from, from + width), b * width);
    }
    return [{ shape: [batch, 1, width], data }];
  },

  kernel({ inputs: [x], outputs: [out] }) {
    const [, tokens, width] = x!.shape as [number, number, number];
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
  out[i] = x[((i / ${width}u) * ${tokens}u + ${tokens - 1}u) * ${width}u + i % ${width}u];
}`,
        workgroups: grid.workgroups,
      },
    ];
  },
};

export function lastRow(x: Value): Value {
  return x.graph.apply(lastRowOp, [x])[0]!;
}
