/**
 * Logits bounded as Gemma 2 has them: y = cap · tanh(x / cap), element by element. dx = g · (1 − (y / cap)²).
 */
import { bytesOf, sizeOf, type Dispatch, type OpDefinition, type Operand, type Value } from '../../graph/types.ts';
import { mul } from '../mul/mul.ts';
import { addScaled } from '../scale/scale.ts';
import { f32, flatGrid, tanhWgsl } from '../wgsl.ts';

type SoftcapAttributes = { cap: number };

export const softcapOp: OpDefinition<SoftcapAttributes> = {
  name: 'softcap',
  rowwise: true,
  infer([x], { cap }) {
    if (!(cap > 0)) throw new RangeError(`softcap: a cap of ${cap}`);
    return [x!];
  },
  cost: ([x]) => ({ flops: 16 * sizeOf(x!.shape), bytes: 2 * bytesOf(x!) }),
  gradient(node, [g]) {
    const y = node.outputs[0]!;
    return [addScaled(g!, mul(g!, mul(y, y)), -1 / (node.attributes.cap as number) ** 2)];
  },
  reference: ([x], { cap }) => [{ shape: x!.shape, data: x!.data.map((value) => cap * Math.tanh(value / cap)) }],
  kernel: ({ inputs: [x], outputs: [out], attributes: { cap } }) => softcapDispatches(x!, out!, cap),
};

/** The first `count` numbers of `x`, capped into `out`, which may be `x` itself. */
export function softcapDispatches(x: Operand, out: Operand, cap: number, count = x.size): Dispatch[] {
  const grid = flatGrid(count);
  return [
    {
      label: `softcap ${count}`,
      bindings: [
        { name: 'x', operand: x, access: 'read', length: count },
        { name: 'out', operand: out, access: 'write', length: count },
      ],
      code: `${tanhWgsl('f32')}${grid.entry} {
  ${grid.index}
  out[i] = ${f32(cap)} * tanh_of(x[i] * ${f32(1 / cap)});
}`,
      workgroups: grid.workgroups,
    },
  ];
}

/** cap · tanh(x / cap) */
export function softcap(x: Value, cap: number): Value {
  return x.graph.apply(softcapOp as OpDefinition, [x], { cap })[0]!;
}
