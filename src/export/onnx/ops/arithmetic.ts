/** Element by element: add, mul, scale, addScaled, siluMul, gelu, dropout (which is nothing outside training). */
import type { Node } from '../../../engine/graph/types.ts';
import type { Lowered, Lowering, OpLowering } from '../lowering.ts';

/**
 * The sum of two whole tensors is the residual stream: it stays in single precision, where a few entries of many models
 * grow beyond what half precision tells apart. A bias is added in the type of what it is added to.
 */
export const add: OpLowering = (c, { inputs: [a, b] }) => {
  const residual = a!.type.shape.length === b!.type.shape.length;
  const type = residual ? 'FLOAT' : c.precision.float;
  return [{ name: c.emit('Add', [c.get(a!, type), c.get(b!, type)]), type }];
};

export const addScaled: OpLowering = (c, { inputs: [a, b], attributes }) => {
  const scaled = c.emit('Mul', [c.get(b!, 'FLOAT'), c.float(attributes.factor as number, 'FLOAT')]);
  return [{ name: c.emit('Add', [c.get(a!, 'FLOAT'), scaled]), type: 'FLOAT' }];
};

export const mul: OpLowering = (c, { inputs: [a, b] }) => [inFloat(c, c.emit('Mul', [c.get(a!), c.get(b!)]))];

export const scale: OpLowering = (c, { inputs: [a], attributes }) => [
  inFloat(c, c.emit('Mul', [c.get(a!), c.float(attributes.factor as number)])),
];

/** silu(gate) · up */
export const siluMul: OpLowering = (c, { inputs: [gate, up] }) => {
  const x = c.get(gate!);
  const silu = c.emit('Mul', [x, c.emit('Sigmoid', [x])]);
  return [inFloat(c, c.emit('Mul', [silu, c.get(up!)]))];
};

export const gelu: OpLowering = (c, { inputs: [x], attributes }) => [
  inFloat(
    c,
    c.emit('Gelu', [c.get(x!)], { approximate: { string: attributes.approximate === 'tanh' ? 'tanh' : 'none' } }),
  ),
];

export const dropout: OpLowering = (c, node: Node) => [{ name: c.get(node.inputs[0]!), type: c.precision.float }];

function inFloat(c: Lowering, name: string): Lowered {
  return { name, type: c.precision.float };
}
