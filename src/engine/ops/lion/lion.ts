/**
 * Lion (Chen et al. 2023, Symbolic discovery of optimization algorithms, alg. 2), with clipping by the global norm
 * (torch.nn.utils.clip_grad_norm_) folded in. One moment, half of AdamW's state. In place on parameter and m.
 *
 *   g ← g · min(1, max_norm / (‖g‖ + 1e-6));  p ← p − lr·λ·p
 *   p ← p − lr · sign(β1 m + (1 − β1) g);  m ← β2 m + (1 − β2) g
 */
import { bytesOf, sizeOf, type OpDefinition, type Value } from '../../graph/types.ts';
import { CLIP_WGSL, clipFactor } from '../clipping.ts';
import { flatGrid } from '../wgsl.ts';

export const lionOp: OpDefinition<{ decay: boolean }> = {
  name: 'lion',
  rowwise: true,
  inPlace: { 0: 0, 1: 1 },

  infer: ([parameter, m]) => [parameter!, m!],

  cost: ([parameter]) => ({ flops: 12 * sizeOf(parameter!.shape), bytes: 5 * bytesOf(parameter!) }),

  reference([parameter, m, grad, hyper, normSquared], { decay }) {
    const [lr, beta1, beta2] = [hyper!.data[0]!, hyper!.data[1]!, hyper!.data[2]!];
    const weightDecay = decay ? hyper!.data[4]! : 0;
    const maxNorm = hyper!.data[7]!;
    const clip = clipFactor(maxNorm, normSquared!.data[0]!);
    const next = parameter!.data.map((value, i) => {
      const direction = Math.sign(beta1 * m!.data[i]! + (1 - beta1) * grad!.data[i]! * clip);
      return value - lr * weightDecay * value - lr * direction;
    });
    const nextM = m!.data.map((value, i) => beta2 * value + (1 - beta2) * grad!.data[i]! * clip);
    return [
      { shape: parameter!.shape, data: next },
      { shape: m!.shape, data: nextM },
    ];
  },

  kernel({ inputs: [parameter, m, grad, hyper, normSquared], attributes: { decay } }) {
    const grid = flatGrid(parameter!.size);
    return [
      {
        label: `lion ${parameter!.size}`,
        bindings: [
          { name: 'parameter', operand: parameter!, access: 'write' },
          { name: 'm', operand: m!, access: 'write' },
          { name: 'grad', operand: grad!, access: 'read' },
          { name: 'hyper', operand: hyper!, access: 'read' },
          { name: 'norm_squared', operand: normSquared!, access: 'read' },
        ],
        code: `${grid.entry} {
  ${grid.index}
  let lr = hyper[0];
  ${CLIP_WGSL}
  let g = grad[i] * clip;
  let p = parameter[i]${decay ? ' * (1.0 - lr * hyper[4])' : ''};
  parameter[i] = p - lr * sign(hyper[1] * m[i] + (1.0 - hyper[1]) * g);
  m[i] = hyper[2] * m[i] + (1.0 - hyper[2]) * g;
}`,
        workgroups: grid.workgroups,
      },
    ];
  },
};

/**
 * @param hyper f32[8], as adamw's; epsilon and the bias corrections don't count
 * @param normSquared f32[1]: the squared global norm of all gradients
 */
export function lion(
  parameter: Value,
  m: Value,
  grad: Value,
  hyper: Value,
  normSquared: Value,
  attributes: { decay: boolean },
): readonly Value[] {
  return parameter.graph.apply(lionOp, [parameter, m, grad, hyper, normSquared], attributes);
}
