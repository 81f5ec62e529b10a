/**
 * Stochastic gradient descent as torch.optim.SGD computes it without momentum, with clipping by the global norm
 * (torch.nn.utils.clip_grad_norm_) folded in. Weight decay is part of the gradient, as there. In place on the parameter.
 *
 *   g ← g · min(1, max_norm / (‖g‖ + 1e-6));  g ← g + λ·p;  p ← p − lr·g
 */
import { bytesOf, sizeOf, type OpDefinition, type Value } from '../../graph/types.ts';
import { CLIP_WGSL, clipFactor } from '../clipping.ts';
import { flatGrid } from '../wgsl.ts';

export const sgdOp: OpDefinition<{ decay: boolean }> = {
  name: 'sgd',
  rowwise: true,
  inPlace: { 0: 0 },

  infer: ([parameter]) => [parameter!],

  cost: ([parameter]) => ({ flops: 5 * sizeOf(parameter!.shape), bytes: 3 * bytesOf(parameter!) }),

  reference([parameter, grad, hyper, normSquared], { decay }) {
    const lr = hyper!.data[0]!;
    const weightDecay = decay ? hyper!.data[4]! : 0;
    const maxNorm = hyper!.data[7]!;
    const clip = clipFactor(maxNorm, normSquared!.data[0]!);
    const data = parameter!.data.map((value, i) => value - lr * (grad!.data[i]! * clip + weightDecay * value));
    return [{ shape: parameter!.shape, data }];
  },

  kernel({ inputs: [parameter, grad, hyper, normSquared], attributes: { decay } }) {
    const grid = flatGrid(parameter!.size);
    return [
      {
        label: `sgd ${parameter!.size}`,
        bindings: [
          { name: 'parameter', operand: parameter!, access: 'write' },
          { name: 'grad', operand: grad!, access: 'read' },
          { name: 'hyper', operand: hyper!, access: 'read' },
          { name: 'norm_squared', operand: normSquared!, access: 'read' },
        ],
        code: `${grid.entry} {
  ${grid.index}
  ${CLIP_WGSL}
  let p = parameter[i];
  parameter[i] = p - hyper[0] * (grad[i] * clip${decay ? ' + hyper[4] * p' : ''});
}`,
        workgroups: grid.workgroups,
      },
    ];
  },
};

/**
 * @param hyper f32[8], as adamw's; the learning rate, weight decay and max norm count
 * @param normSquared f32[1]: the squared global norm of all gradients
 */
export function sgd(
  parameter: Value,
  grad: Value,
  hyper: Value,
  normSquared: Value,
  attributes: { decay: boolean },
): readonly Value[] {
  return parameter.graph.apply(sgdOp, [parameter, grad, hyper, normSquared], attributes);
}
