/**
 * Sums and products with numbers: x·factor with a factor known when the graph is built, x·s with s a tensor f32[1] (a
 * gradient that arrives late), a + factor·b (a LoRA branch joining its layer).
 */
import { bytesOf, sameShape, showType, sizeOf, type OpDefinition, type Value } from '../../graph/types.ts';
import { mul } from '../mul/mul.ts';
import { sumAll } from '../sum-all/sum-all.ts';
import { elementwise, f32 } from '../wgsl.ts';

export const scaleOp: OpDefinition<{ factor: number }> = {
  name: 'scale',
  elementwise: true,
  rowwise: true,
  infer: ([x]) => [x!],
  cost: ([x]) => ({ flops: sizeOf(x!.shape), bytes: 2 * bytesOf(x!) }),
  gradient: (node, [g]) => [scale(g!, node.attributes.factor as number)],
  reference: ([x], { factor }) => [{ shape: x!.shape, data: x!.data.map((value) => value * factor) }],
  kernel: ({ inputs: [x], outputs: [out], attributes: { factor } }) => [
    elementwise('scale', out!, { x: x! }, `x[i] * ${f32(factor)}`),
  ],
};

export const scaleByOp: OpDefinition = {
  name: 'scale-by',
  elementwise: true,
  rowwise: true,
  infer([x, s]) {
    if (s!.shape.length !== 1 || s!.shape[0] !== 1)
      throw new RangeError(`scaleBy: a factor of ${showType(s!)}, not f32[1]`);
    return [x!];
  },
  cost: ([x]) => ({ flops: sizeOf(x!.shape), bytes: 2 * bytesOf(x!) }),
  gradient(node, [g], needed) {
    const [x, s] = node.inputs;
    return [needed[0] ? scaleBy(g!, s!) : undefined, needed[1] ? sumAll(mul(g!, x!)) : undefined];
  },
  reference: ([x, s]) => [{ shape: x!.shape, data: x!.data.map((value) => value * s!.data[0]!) }],
  kernel: ({ inputs: [x, s], outputs: [out] }) => [
    elementwise('scale-by', out!, { x: x! }, 'x[i] * s[0]', { scalars: { s: s! } }),
  ],
};

export const addScaledOp: OpDefinition<{ factor: number }> = {
  name: 'add-scaled',
  elementwise: true,
  rowwise: true,
  infer([a, b]) {
    if (!sameShape(a!.shape, b!.shape)) throw new RangeError(`addScaled: ${showType(a!)} and ${showType(b!)}`);
    return [a!];
  },
  cost: ([a]) => ({ flops: 2 * sizeOf(a!.shape), bytes: 3 * bytesOf(a!) }),
  gradient: (node, [g], needed) => [
    needed[0] ? g : undefined,
    needed[1] ? scale(g!, node.attributes.factor as number) : undefined,
  ],
  reference: ([a, b], { factor }) => [
    { shape: a!.shape, data: a!.data.map((value, i) => value + factor * b!.data[i]!) },
  ],
  kernel: ({ inputs: [a, b], outputs: [out], attributes: { factor } }) => [
    elementwise('add-scaled', out!, { a: a!, b: b! }, `a[i] + ${f32(factor)} * b[i]`),
  ],
};

/** x · factor */
export function scale(x: Value, factor: number): Value {
  return x.graph.apply(scaleOp, [x], { factor })[0]!;
}

/** x · s, where s is f32[1] */
export function scaleBy(x: Value, s: Value): Value {
  return x.graph.apply(scaleByOp, [x, s])[0]!;
}

/** a + factor · b */
export function addScaled(a: Value, b: Value, factor: number): Value {
  return a.graph.apply(addScaledOp, [a, b], { factor })[0]!;
}
