/**
 * Σ x², f32[1]: what a global gradient norm is made of. Two stages in a fixed order: each thread of all strides
 * through the tensor, going on from window to window where it lies in several, so that the bits do not depend on them.
 */
import { bytesOf, sizeOf, type Dispatch, type OpDefinition, type Value } from '../../graph/types.ts';
import { matrixOf, windowsOf } from '../../graph/windows.ts';

const GROUPS = 64;
const THREADS = 64;
const STRIDE = GROUPS * THREADS;

export const sumSquaresOp: OpDefinition = {
  name: 'sum-squares',
  early: true,
  infer: () => [{ shape: [1], dtype: 'f32' }],
  cost: ([x]) => ({ flops: 2 * sizeOf(x!.shape), bytes: bytesOf(x!) }),
  reference: ([x]) => [{ shape: [1], data: Float64Array.of(x!.data.reduce((sum, value) => sum + value * value, 0)) }],

  kernel({ inputs: [x], outputs: [out], scratch }) {
    const partial = scratch([STRIDE]);
    return [
      ...windowsOf(x!).map(({ start, operand }): Dispatch => {
        const passed = (start * matrixOf(x!).width) % STRIDE;
        return {
          label: `sum-squares ${operand.size}`,
          bindings: [
            { name: 'x', operand, access: 'read' },
            { name: 'partial_sums', operand: partial, access: 'write' },
          ],
          code: `@compute @workgroup_size(${THREADS}) fn main(@builtin(global_invocation_id) gid: vec3<u32>) {
  var sum = ${start === 0 ? '0.0' : 'partial_sums[gid.x]'};
  for (var i = ${passed === 0 ? 'gid.x' : `(gid.x + ${STRIDE - passed}u) % ${STRIDE}u`}; i < ${operand.size}u; i += ${STRIDE}u) { sum += x[i] * x[i]; }
  partial_sums[gid.x] = sum;
}`,
          workgroups: [GROUPS, 1, 1],
        };
      }),
      {
        label: 'sum-squares partials',
        bindings: [
          { name: 'partial_sums', operand: partial, access: 'read' },
          { name: 'out', operand: out!, access: 'write' },
        ],
        code: `var<workgroup> sums: array<f32, ${THREADS}>;
@compute @workgroup_size(${THREADS}) fn main(@builtin(local_invocation_index) lid: u32) {
  var sum = 0.0;
  for (var i = lid; i < ${STRIDE}u; i += ${THREADS}u) { sum += partial_sums[i]; }
  sums[lid] = sum;
  workgroupBarrier();
  if (lid == 0u) {
    var total = 0.0;
    for (var i = 0u; i < ${THREADS}u; i++) { total += sums[i]; }
    out[0] = total;
  }
}`,
        workgroups: [1, 1, 1],
      },
    ];
  },
};

export function sumSquares(x: Value): Value {
  return x.graph.apply(sumSquaresOp, [x])[0]!;
}
