/**
 * silu(gate) ∘ up, the middle of a SwiGLU block; silu(x) = x·σ(x). Its gradient is one op with both results, from the same
 * inputs: d up = g·silu(gate), d gate = g·up·σ(1 + gate(1 − σ)).
 */
import { bytesOf, sameShape, showType, sizeOf, type OpDefinition, type Value } from '../../graph/types.ts';
import { elementwise, flatGrid } from '../wgsl.ts';

/** exp(80) is still a finite f32, and σ(±80) is 1 and 2e-35. */
const SIGMOID = 'fn sigmoid(x: value) -> value { return 1.0 / (1.0 + exp(-clamp(x, value(-80.0), value(80.0)))); }\n';
const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x));

export const siluMulOp: OpDefinition = {
  name: 'silu-mul',
  elementwise: true,
  infer([gate, up]) {
    if (!sameShape(gate!.shape, up!.shape)) throw new RangeError(`siluMul: ${showType(gate!)} and ${showType(up!)}`);
    return [gate!];
  },
  cost: ([gate]) => ({ flops: 5 * sizeOf(gate!.shape), bytes: 3 * bytesOf(gate!) }),
  gradient: (node, [g]) => node.inputs[0]!.graph.apply(siluMulGradientOp, [...node.inputs, g!]),
  reference: ([gate, up]) => [{ shape: gate!.shape, data: gate!.data.map((x, i) => x * sigmoid(x) * up!.data[i]!) }],
  kernel: ({ inputs: [gate, up], outputs: [out] }) => [
    elementwise('silu-mul', out!, { gate: gate!, up: up! }, 'gate[i] * sigmoid(gate[i]) * up[i]', {
      declarations: SIGMOID,
    }),
  ],
};

export const siluMulGradientOp: OpDefinition = {
  name: 'silu-mul-gradient',
  elementwise: true,
  infer: ([gate, up]) => [gate!, up!],
  cost: ([gate]) => ({ flops: 11 * sizeOf(gate!.shape), bytes: 5 * bytesOf(gate!) }),
  reference([gate, up, g]) {
    const slope = (x: number): number => sigmoid(x) * (1 + x * (1 - sigmoid(x)));
    return [
      { shape: gate!.shape, data: gate!.data.map((x, i) => g!.data[i]! * up!.data[i]! * slope(x)) },
      { shape: gate!.shape, data: gate!.data.map((x, i) => g!.data[i]! * x * sigmoid(x)) },
    ];
  },
  kernel({ inputs: [gate, up, g], outputs: [gateGradient, upGradient] }) {
    const width = gate!.size % 4 === 0 ? 4 : 1;
    const element = width === 4 ? 'vec4<f32>' : 'f32';
    const grid = flatGrid(gate!.size / width);
    return [
      {
        label: `silu-mul-gradient ${gate!.shape.join('x')}`,
        bindings: [
          { name: 'gate', operand: gate!, access: 'read', element },
          { name: 'up', operand: up!, access: 'read', element },
          { name: 'g', operand: g!, access: 'read', element },
          { name: 'gate_gradient', operand: gateGradient!, access: 'write', element },
          { name: 'up_gradient', operand: upGradient!, access: 'write', element },
        ],
        code: `alias value = ${element};\n${SIGMOID}${grid.entry} {
  ${grid.index}
  let x = gate[i];
  let y = up[i];
  let from_out = g[i];
  let s = sigmoid(x);
  up_gradient[i] = from_out * x * s;
  gate_gradient[i] = from_out * y * s * (1.0 + x * (1.0 - s));
}`,
        workgroups: grid.workgroups,
      },
    ];
  },
};

/** silu(gate) ∘ up */
export function siluMul(gate: Value, up: Value): Value {
  return gate.graph.apply(siluMulOp, [gate, up])[0]!;
}
