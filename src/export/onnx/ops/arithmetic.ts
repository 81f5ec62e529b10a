/** Element by element: add, mul, scale, addScaled, softcap, siluMul, activation, dropout (which is nothing outside training). */
import type { Node } from '../../../engine/graph/types.ts';
import type { ActivationName } from '../../../engine/ops/index.ts';
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

/** cap · tanh(x / cap), in single precision: these are logits. */
export const softcap: OpLowering = (c, { inputs: [a], attributes }) => {
  const cap = c.float(attributes.cap as number, 'FLOAT');
  const bent = c.emit('Tanh', [c.emit('Div', [c.get(a!, 'FLOAT'), cap])]);
  return [{ name: c.emit('Mul', [bent, cap]), type: 'FLOAT' }];
};

/** silu(gate) · up */
export const siluMul: OpLowering = (c, { inputs: [gate, up] }) => {
  const x = c.get(gate!);
  const silu = c.emit('Mul', [x, c.emit('Sigmoid', [x])]);
  return [inFloat(c, c.emit('Mul', [silu, c.get(up!)]))];
};

export const activation: OpLowering = (c, { inputs: [input], attributes }) => {
  const x = c.get(input!);
  const gated = (by: string): string => c.emit('Mul', [x, c.emit('Sigmoid', [by])]);
  const written: Readonly<Record<ActivationName, () => string>> = {
    gelu: () => c.emit('Gelu', [x], { approximate: { string: 'none' } }),
    gelu_pytorch_tanh: () => c.emit('Gelu', [x], { approximate: { string: 'tanh' } }),
    quick_gelu: () => gated(c.emit('Mul', [x, c.float(1.702)])),
    relu: () => c.emit('Relu', [x]),
    silu: () => gated(x),
  };
  return [inFloat(c, written[attributes.name as ActivationName]())];
};

export const dropout: OpLowering = (c, node: Node) => [{ name: c.get(node.inputs[0]!), type: c.precision.float }];

function inFloat(c: Lowering, name: string): Lowered {
  return { name, type: c.precision.float };
}
