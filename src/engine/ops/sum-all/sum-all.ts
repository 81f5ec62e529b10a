/**
 * The sum of all entries, f32[1], and its gradient, the same number everywhere. Two stages in a fixed order: partial sums
 * of 256 threads that each stride through the tensor, then one thread that adds them.
 */
import { bytesOf, sizeOf, type OpDefinition, type Shape, type Value } from '../../graph/types.ts';
import { flatGrid } from '../wgsl.ts';

const PARTIALS = 256;

export const sumAllOp: OpDefinition = {
  name: 'sum-all',
  infer: () => [{ shape: [1], dtype: 'f32' }],
  cost: ([x]) => ({ flops: sizeOf(x!.shape), bytes: bytesOf(x!) }),

  gradient: (node, [g]) => [fill(g!, node.inputs[0]!.type.shape)],

  reference: ([x]) => [{ shape: [1], data: Float64Array.of(x!.data.reduce((sum, value) => sum + value, 0)) }],

  kernel({ inputs: [x], outputs: [out], scratch }) {
    const partial = scratch([PARTIALS]);
    return [
      {
        label: `sum-all ${x!.shape.join('x')}`,
        bindings: [
          { name: 'x', operand: x!, access: 'read' },
          { name: 'partial_sums', operand: partial, access: 'write' },
        ],
        code: `@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) gid: vec3<u32>) {
  var sum = 0.0;
  for (var i = gid.x; i < ${x!.size}u; i += ${PARTIALS}u) { sum += x[i]; }
  partial_sums[gid.x] = sum;
}`,
        workgroups: [PARTIALS / 64, 1, 1],
      },
      {
        label: 'sum-all partials',
        bindings: [
          { name: 'partial_sums', operand: partial, access: 'read' },
          { name: 'out', operand: out!, access: 'write' },
        ],
        code: `@compute @workgroup_size(1) fn main() {
  var sum = 0.0;
  for (var i = 0u; i < ${PARTIALS}u; i++) { sum += partial_sums[i]; }
  out[0] = sum;
}`,
        workgroups: [1, 1, 1],
      },
    ];
  },
};

export const fillOp: OpDefinition = {
  name: 'fill',
  infer: (_, attributes) => [{ shape: attributes.shape as readonly number[], dtype: 'f32' }],
  cost: (_, [out]) => ({ flops: 0, bytes: bytesOf(out!) }),
  gradient: (_, [g]) => [sumAll(g!)],
  reference: ([x], _, [out]) => [
    { shape: out!.shape as number[], data: new Float64Array(sizeOf(out!.shape)).fill(x!.data[0]!) },
  ],
  kernel({ inputs: [x], outputs: [out] }) {
    const grid = flatGrid(out!.size);
    return [
      {
        label: `fill ${out!.shape.join('x')}`,
        bindings: [
          { name: 'x', operand: x!, access: 'read' },
          { name: 'out', operand: out!, access: 'write' },
        ],
        code: `${grid.entry} {
  ${grid.index}
  out[i] = x[0];
}`,
        workgroups: grid.workgroups,
      },
    ];
  },
};

/** x summed over everything: f32[1]. */
export function sumAll(x: Value): Value {
  return x.graph.apply(sumAllOp, [x])[0]!;
}

/** A scalar f32[1] spread over a shape. */
export function fill(x: Value, shape: Shape): Value {
  return x.graph.apply(fillOp, [x], { shape: shape as readonly number[] })[0]!;
}
