/** The last axis cut into parts and joined again. */
import type { OpLowering } from '../lowering.ts';

export const split: OpLowering = (c, { inputs: [x], attributes }) => {
  const sizes = attributes.sizes as readonly number[];
  const parts = c.emitMany('Split', [c.get(x!), c.ints(sizes)], sizes.length, { axis: { int: -1 } });
  return parts.map((name) => ({ name, type: c.precision.float }));
};

export const concat: OpLowering = (c, { inputs }) => {
  const parts = inputs.map((value) => c.get(value));
  return [{ name: c.emit('Concat', parts, { axis: { int: -1 } }), type: c.precision.float }];
};
