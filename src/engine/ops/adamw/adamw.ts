/**
 * AdamW (Loshchilov & Hutter 2019, Decoupled weight decay regularization, alg. 2) as torch.optim.AdamW computes it, with
 * clipping by the global norm (torch.nn.utils.clip_grad_norm_) folded in. In place on parameter, m and v.
 *
 *   g ← g · min(1, max_norm / (‖g‖ + 1e-6));  p ← p − lr·λ·p;  m ← β1 m + (1 − β1) g;  v ← β2 v + (1 − β2) g²
 *   p ← p − (lr / c1) · m / (√v / √c2 + ε)        c1 = 1 − β1^t, c2 = 1 − β2^t
 */
import { bytesOf, sizeOf, type OpDefinition, type Value } from '../../graph/types.ts';
import { CLIP_WGSL, clipFactor } from '../clipping.ts';
import { flatGrid } from '../wgsl.ts';

export const adamwOp: OpDefinition<{ decay: boolean }> = {
  name: 'adamw',
  rowwise: true,
  inPlace: { 0: 0, 1: 1, 2: 2 },

  infer: ([parameter, m, v]) => [parameter!, m!, v!],

  cost: ([parameter]) => ({ flops: 16 * sizeOf(parameter!.shape), bytes: 7 * bytesOf(parameter!) }),

  reference([parameter, m, v, grad, hyper, normSquared], { decay }) {
    const [lr, beta1, beta2, eps, weightDecay, c1, c2, maxNorm] = hyper!.data as unknown as [
      number,
      number,
      number,
      number,
      number,
      number,
      number,
      number,
    ];
    const clip = clipFactor(maxNorm, normSquared!.data[0]!);
    const nextM = m!.data.map((value, i) => beta1 * value + (1 - beta1) * grad!.data[i]! * clip);
    const nextV = v!.data.map((value, i) => beta2 * value + (1 - beta2) * (grad!.data[i]! * clip) ** 2);
    const next = parameter!.data.map((value, i) => {
      const decayed = decay ? value - lr * weightDecay * value : value;
      return decayed - ((lr / c1) * nextM[i]!) / (Math.sqrt(nextV[i]!) / Math.sqrt(c2) + eps);
    });
    return [
      { shape: parameter!.shape, data: next },
      { shape: m!.shape, data: nextM },
      { shape: v!.shape, data: nextV },
    ];
  },

  kernel({ inputs: [parameter, m, v, grad, hyper, normSquared], attributes: { decay } }) {
    const grid = flatGrid(parameter!.size);
    return [
      {
        label: `adamw ${parameter!.size}`,
        bindings: [
          { name: 'parameter', operand: parameter!, access: 'write' },
          { name: 'm', operand: m!, access: 'write' },
          { name: 'v', operand: v!, access: 'write' },
          { name: 'grad', operand: grad!, access: 'read' },
          { name: 'hyper', operand: hyper!, access: 'read' },
          { name: 'norm_squared', operand: normSquared!, access: 'read' },
        ],
        code: `${grid.entry} {
  ${grid.index}
  let lr = hyper[0];
  let beta1 = hyper[1];
  let beta2 = hyper[2];
  ${CLIP_WGSL}
  let g = grad[i] * clip;
  var p = parameter[i];
  ${decay ? 'p -= lr * hyper[4] * p;' : ''}
  let next_m = m[i] + (1.0 - beta1) * (g - m[i]);
  let next_v = beta2 * v[i] + (1.0 - beta2) * g * g;
  m[i] = next_m;
  v[i] = next_v;
  parameter[i] = p - (lr / hyper[5]) * next_m / (sqrt(next_v) / sqrt(hyper[6]) + hyper[3]);
}`,
        workgroups: grid.workgroups,
      },
    ];
  },
};

/**
 * @param hyper f32[8]: learning rate, beta1, beta2, epsilon, weight decay, 1 − beta1^t, 1 − beta2^t, max norm (0: no clipping)
 * @param normSquared f32[1]: the squared global norm of all gradients
 */
export function adamw(
  parameter: Value,
  m: Value,
  v: Value,
  grad: Value,
  hyper: Value,
  normSquared: Value,
  attributes: { decay: boolean },
): readonly Value[] {
  return parameter.graph.apply(adamwOp, [parameter, m, v, grad, hyper, normSquared], attributes);
}
