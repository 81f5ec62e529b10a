/**
 * A packed weight as f32, for ops that do not read it packed (norms of its rows, say). `Graph.apply` puts it in front of
 * those; what it makes lives only as long as that op needs it. A packed weight is frozen: there is no gradient.
 */
import { weightReader } from '../../graph/packing.ts';
import { bytesOf, sizeOf, type Dispatch, type OpDefinition, type Value } from '../../graph/types.ts';
import { commonWindows, locate, matrixOf } from '../../graph/windows.ts';
import { flatGrid } from '../wgsl.ts';

export const unpackOp: OpDefinition = {
  name: 'unpack',
  packed: [0],

  infer: ([weight]) => [{ shape: weight!.shape, dtype: 'f32' }],
  cost: ([weight], [out]) => ({ flops: sizeOf(out!.shape), bytes: bytesOf(weight!) + bytesOf(out!) }),
  // in float64 a packed weight is its numbers already
  reference: ([weight]) => [weight!],

  kernel({ inputs: [weight], outputs: [out] }) {
    const { rows, width: columns } = matrixOf(out!);
    // the same rows are fewer bytes packed, so the two are cut at different rows
    return commonWindows(rows, [
      { operand: weight!, first: 0 },
      { operand: out!, first: 0 },
    ]).map((window): Dispatch => {
      const [from, to] = [locate(weight!, window.start), locate(out!, window.start)];
      const length = window.rows * columns;
      const width = length % 4 === 0 ? 4 : 1;
      const reader = weightReader('weight', weight!.type.dtype, width);
      const grid = flatGrid(length / width);
      return {
        label: `unpack ${weight!.type.dtype} ${window.rows}x${columns}`,
        bindings: [
          { name: 'weight', ...from, length, access: 'read', element: reader.element },
          { name: 'out', ...to, length, access: 'write', element: width === 4 ? 'vec4<f32>' : 'f32' },
        ],
        code: `${reader.functions}${grid.entry} {
  ${grid.index}
  out[i] = ${width === 4 ? reader.four('i * 4u') : reader.one('i')};
}`,
        workgroups: grid.workgroups,
      };
    });
  },
};

export function unpack(weight: Value): Value {
  return weight.graph.apply(unpackOp, [weight])[0]!;
}
