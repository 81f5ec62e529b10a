/**
 * a + b, where b has a's shape or that of a's last axes (a bias). Gradient: g for a; g summed over the other axes for b.
 * Of a forgotten b it is zero, as the model's maths says: the sum that cancels would leave its rounding, a few 1e-9 of the
 * steepest gradient, and an optimiser that looks at signs (Adam) would take steps by it.
 */
import { bytesOf, sizeOf, type Dispatch, type OpDefinition, type Shape, type Value } from '../../graph/types.ts';
import { scale } from '../scale/scale.ts';
import { sumLeading } from '../sum-leading/sum-leading.ts';
import { flatGrid } from '../wgsl.ts';

export const addOp: OpDefinition<{ forgotten?: boolean }> = {
  name: 'add',
  elementwise: true,
  rowwise: true,

  infer([a, b]) {
    if (!isSuffix(b!.shape, a!.shape)) throw new RangeError(`add: [${b!.shape}] is not the end of [${a!.shape}]`);
    return [a!];
  },

  cost: ([a, b]) => ({ flops: sizeOf(a!.shape), bytes: 2 * bytesOf(a!) + bytesOf(b!) }),

  gradient(node, [g], needed) {
    const [a, b] = node.inputs;
    const ofB = (): Value => {
      if (node.attributes.forgotten) return scale(b!, 0);
      return b!.type.shape.length === a!.type.shape.length ? g! : sumLeading(g!, b!.type.shape.length);
    };
    return [needed[0] ? g : undefined, needed[1] ? ofB() : undefined];
  },

  reference([a, b]) {
    return [{ shape: a!.shape, data: a!.data.map((value, i) => value + b!.data[i % b!.data.length]!) }];
  },

  kernel({ inputs: [a, b], outputs: [out] }): Dispatch[] {
    const grid = flatGrid(a!.size);
    const j = b!.size === a!.size ? 'i' : `i % ${b!.size}u`;
    return [
      {
        label: `add ${a!.shape.join('x')}`,
        bindings: [
          { name: 'a', operand: a!, access: 'read' },
          { name: 'b', operand: b!, access: 'read' },
          { name: 'out', operand: out!, access: 'write' },
        ],
        code: `${grid.entry} {
  ${grid.index}
  out[i] = a[i] + b[${j}];
}`,
        workgroups: grid.workgroups,
      },
    ];
  },
};

function isSuffix(end: Shape, shape: Shape): boolean {
  return end.length <= shape.length && end.every((dim, i) => dim === shape[shape.length - end.length + i]);
}

export function add(a: Value, b: Value): Value {
  return a.graph.apply(addOp, [a, b])[0]!;
}

/** a + b, where nothing that is made of the sum depends on b: a bias of keys, which softmax forgets. */
export function addForgotten(a: Value, b: Value): Value {
  return a.graph.apply(addOp, [a, b], { forgotten: true })[0]!;
}
