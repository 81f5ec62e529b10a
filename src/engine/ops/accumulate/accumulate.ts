/**
 * state = keep · state + take · g, in place: gradients summed over micro-batches, and a scaled loss's scaled back. With keep 0
 * the old content is not read at all, so that a NaN of an abandoned step cannot survive.
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

  cost: ([state]) => ({ flops: 3 * sizeOf(state!.shape), bytes: 3 * bytesOf(state!) }),

  reference([state, g, factors]) {
    const [keep, take] = factors!.data as unknown as [number, number];
    return [
      {
        shape: state!.shape,
        data: g!.data.map((value, i) => take * value + (keep === 0 ? 0 : keep * state!.data[i]!)),
      },
    ];
  },

  kernel({ inputs: [state, g, factors] }) {
    const grid = flatGrid(state!.size);
    return [
      {
        label: `accumulate ${state!.shape.join('x')}`,
        bindings: [
          { name: 'sum', operand: state!, access: 'write' },
          { name: 'g', operand: g!, access: 'read' },
          { name: 'factors', operand: factors!, access: 'read' },
        ],
        code: `${grid.entry} {
  ${grid.index}
  var value = factors[1] * g[i];
  if (factors[0] != 0.0) { value += factors[0] * sum[i]; }
  sum[i] = value;
}`,
        workgroups: grid.workgroups,
      },
    ];
  },
};

/** @param factors f32[2]: keep and take */
export function accumulate(state: Value, g: Value, factors: Value): Value {
  return state.graph.apply(accumulateOp, [state, g, factors])[0]!;
}
