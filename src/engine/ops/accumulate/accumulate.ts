/**
 * state = keep · state + g, in place: gradients summed over micro-batches. With keep 0 the old content is not read at
 * all, so that a NaN of an abandoned step cannot survive.
 */
import { bytesOf, sameShape, showType, sizeOf, type OpDefinition, type Value } from '../../graph/types.ts';
import { flatGrid } from '../wgsl.ts';

export const accumulateOp: OpDefinition = {
  name: 'accumulate',
  rowwise: true,
  inPlace: { 0: 0 },

  infer([state, g]) {
    if (!sameShape(state!.shape, g!.shape))
      throw new RangeError(`accumulate: ${showType(g!)} into ${showType(state!)}`);
    return [state!];
  },

  cost: ([state]) => ({ flops: 2 * sizeOf(state!.shape), bytes: 3 * bytesOf(state!) }),

  reference([state, g, keep]) {
    const factor = keep!.data[0]!;
    return [
      {
        shape: state!.shape,
        data: g!.data.map((value, i) => (factor === 0 ? value : factor * state!.data[i]! + value)),
      },
    ];
  },

  kernel({ inputs: [state, g, keep] }) {
    const grid = flatGrid(state!.size);
    return [
      {
        label: `accumulate ${state!.shape.join('x')}`,
        bindings: [
          { name: 'sum', operand: state!, access: 'write' },
          { name: 'g', operand: g!, access: 'read' },
          { name: 'keep', operand: keep!, access: 'read' },
        ],
        code: `${grid.entry} {
  ${grid.index}
  var value = g[i];
  if (keep[0] != 0.0) { value += keep[0] * sum[i]; }
  sum[i] = value;
}`,
        workgroups: grid.workgroups,
      },
    ];
  },
};

/** @param keep f32[1] */
export function accumulate(state: Value, g: Value, keep: Value): Value {
  return state.graph.apply(accumulateOp, [state, g, keep])[0]!;
}
