/**
 * Norms, always in single precision: squares of half-precision activations overflow.
 *
 * rmsnorm is written in primitives: `SimplifiedLayerNormalization` exists only inside ONNX Runtime (which makes it of
 * this very pattern), and ONNX's RMSNormalization (opset 23) is younger than the runtimes that people have.
 */
import type { OpLowering } from '../lowering.ts';

export const rmsnorm: OpLowering = (c, { inputs: [x, weight], attributes }) => {
  const size = weight!.type.shape[0] as number;
  // a weight shorter than the last axis norms each of its groups (heads) by itself
  const grouped = size !== x!.type.shape.at(-1);
  const input = grouped ? c.emit('Reshape', [c.get(x!, 'FLOAT'), c.ints([0, 0, -1, size])]) : c.get(x!, 'FLOAT');
  const square = c.emit('Pow', [input, c.float(2, 'FLOAT')]);
  const mean = c.emit('ReduceMean', [square, c.ints([-1])], { keepdims: { int: 1 } });
  const root = c.emit('Sqrt', [c.emit('Add', [mean, c.float(attributes.eps as number, 'FLOAT')])]);
  const offset = (attributes.offset as number | undefined) ?? 0;
  const gain = c.get(weight!, 'FLOAT');
  // Gemma keeps w of 1 + w; the runtime folds the sum once
  const factor = offset === 0 ? gain : c.emit('Add', [gain, c.float(offset, 'FLOAT')]);
  const normed = c.emit('Mul', [c.emit('Div', [input, root]), factor]);
  return [{ name: grouped ? c.emit('Reshape', [normed, c.ints([0, 0, -1])]) : normed, type: 'FLOAT' }];
};

export const layernorm: OpLowering = (c, { inputs, attributes }) => [
  {
    name: c.emit(
      'LayerNormalization',
      inputs.map((value) => c.get(value, 'FLOAT')),
      {
        axis: { int: -1 },
        epsilon: { float: attributes.eps as number },
      },
    ),
    type: 'FLOAT',
  },
];
