/** a ∘ b, same shapes. Gradient: g ∘ b for a, g ∘ a for b. */
import { bytesOf, sameShape, showType, sizeOf, type OpDefinition, type Value } from '../../graph/types.ts';
import { flatGrid } from '../wgsl.ts';

export const mulOp: OpDefinition = {
  name: 'mul',

  infer([a, b]) {
    if (!sameShape(a!.shape, b!.shape)) throw new RangeError(`mul: ${showType(a!)} and ${showType(b!)}`);
    return [a!];
  },

  cost: ([a]) => ({ flops: sizeOf(a!.shape), bytes: 3 * bytesOf(a!) }),

  gradient(node, [g], needed) {
    const [a, b] = node.inputs;
    return [needed[0] ? mul(g!, b!) : undefined, needed[1] ? mul(g!, a!) : undefined];
  },

  reference([a, b]) {
    return [{ shape: a!.shape, data: a!.data.map((value, i) => value * b!.data[i]!) }];
  },

  kernel({ inputs: [a, b], outputs: [out] }) {
    const grid = flatGrid(a!.size);
    return [
      {
        label: `mul ${a!.shape.join('x')}`,
        bindings: [
          { name: 'a', operand: a!, access: 'read' },
          { name: 'b', operand: b!, access: 'read' },
          { name: 'out', operand: out!, access: 'write' },
        ],
        code: `${grid.entry} {
  ${grid.index}
  out[i] = a[i] * b[i];
}`,
        workgroups: grid.workgroups,
      },
    ];
  },
};

export function mul(a: Value, b: Value): Value {
  return a.graph.apply(mulOp, [a, b])[0]!;
}
