/** a ∘ b, where b has a's shape or that of a's last axes. Gradient: g ∘ b for a; g ∘ a, summed over the other axes, for b. */
import { bytesOf, sameShape, showType, sizeOf, type OpDefinition, type Value } from '../../graph/types.ts';
import { sumLeading } from '../sum-leading/sum-leading.ts';
import { flatGrid } from '../wgsl.ts';

export const mulOp: OpDefinition = {
  name: 'mul',
  elementwise: true,
  rowwise: true,

  infer([a, b]) {
    const end = a!.shape.slice(a!.shape.length - b!.shape.length);
    if (!sameShape(end, b!.shape)) throw new RangeError(`mul: ${showType(a!)} and ${showType(b!)}`);
    return [a!];
  },

  cost: ([a]) => ({ flops: sizeOf(a!.shape), bytes: 3 * bytesOf(a!) }),

  gradient(node, [g], needed) {
    const [a, b] = node.inputs as [Value, Value];
    const rank = b.type.shape.length;
    const ofB = (): Value => (rank === a.type.shape.length ? mul(g!, a) : sumLeading(mul(g!, a), rank));
    return [needed[0] ? mul(g!, b) : undefined, needed[1] ? ofB() : undefined];
  },

  reference([a, b]) {
    return [{ shape: a!.shape, data: a!.data.map((value, i) => value * b!.data[i % b!.data.length]!) }];
  },

  kernel({ inputs: [a, b], outputs: [out] }) {
    const grid = flatGrid(a!.size);
    const j = b!.size === a!.size ? 'i' : `i % ${b!.size}u`;
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
  out[i] = a[i] * b[${j}];
}`,
        workgroups: grid.workgroups,
      },
    ];
  },
};

export function mul(a: Value, b: Value): Value {
  return a.graph.apply(mulOp, [a, b])[0]!;
}
