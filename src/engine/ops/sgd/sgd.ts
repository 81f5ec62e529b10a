/**
 * Stochastic gradient descent as torch.optim.SGD computes it, with or without momentum (dampening 0, no Nesterov), with
 * clipping by the global norm (torch.nn.utils.clip_grad_norm_) folded in. Weight decay is part of the gradient, as there. In
 * place on the parameter and what it keeps.
 *
 *   g ← g · min(1, max_norm / (‖g‖ + 1e-6));  g ← g + λ·p;  m ← μ·m + g;  p ← p − lr·m
 *
 * Without momentum m is g. torch starts m as the first g, which is what zeros give.
 */
import { bytesOf, sizeOf, type OpDefinition, type Tensor64, type Value } from '../../graph/types.ts';
import { CLIP_WGSL, clipFactor } from '../clipping.ts';
import { flatGrid } from '../wgsl.ts';

const plain = withMomentum(false);
const heavy = withMomentum(true);

function withMomentum(momentum: boolean): OpDefinition<{ decay: boolean }> {
  /** Inputs: parameter, m where there is momentum, grad, hyper, norm_squared. */
  const split = <T>(inputs: readonly T[]): { parameter: T; m: T | undefined; rest: readonly [T, T, T] } => ({
    parameter: inputs[0]!,
    m: momentum ? inputs[1] : undefined,
    rest: inputs.slice(momentum ? 2 : 1) as unknown as readonly [T, T, T],
  });
  return {
    name: momentum ? 'sgd-momentum' : 'sgd',
    rowwise: true,
    inPlace: momentum ? { 0: 0, 1: 1 } : { 0: 0 },

    infer: (inputs) => inputs.slice(0, momentum ? 2 : 1),

    cost: ([parameter]) => ({
      flops: (momentum ? 7 : 5) * sizeOf(parameter!.shape),
      bytes: (momentum ? 5 : 3) * bytesOf(parameter!),
    }),

    reference(inputs, { decay }) {
      const { parameter, m, rest } = split<Tensor64>(inputs);
      const [grad, hyper, normSquared] = rest;
      const [lr, mu] = [hyper.data[0]!, hyper.data[1]!];
      const weightDecay = decay ? hyper.data[4]! : 0;
      const clip = clipFactor(hyper.data[7]!, normSquared.data[0]!);
      const step = parameter.data.map((value, i) => grad.data[i]! * clip + weightDecay * value);
      const moved = m ? step.map((value, i) => mu * m.data[i]! + value) : step;
      const next = { shape: parameter.shape, data: parameter.data.map((value, i) => value - lr * moved[i]!) };
      return m ? [next, { shape: m.shape, data: moved }] : [next];
    },

    kernel({ inputs, attributes: { decay } }) {
      const { parameter, m, rest } = split(inputs);
      const [grad, hyper, normSquared] = rest;
      const grid = flatGrid(parameter.size);
      return [
        {
          label: `sgd ${parameter.size}`,
          bindings: [
            { name: 'parameter', operand: parameter, access: 'write' },
            ...(m ? [{ name: 'm', operand: m, access: 'write' as const }] : []),
            { name: 'grad', operand: grad, access: 'read' },
            { name: 'hyper', operand: hyper, access: 'read' },
            { name: 'norm_squared', operand: normSquared, access: 'read' },
          ],
          code: `${grid.entry} {
  ${grid.index}
  ${CLIP_WGSL}
  let p = parameter[i];
  let g = grad[i] * clip${decay ? ' + hyper[4] * p' : ''};
  ${m ? 'let step = hyper[1] * m[i] + g;\n  m[i] = step;' : 'let step = g;'}
  parameter[i] = p - hyper[0] * step;
}`,
          workgroups: grid.workgroups,
        },
      ];
    },
  };
}

/**
 * @param m f32, as the parameter; undefined: no momentum
 * @param hyper f32[8], as adamw's; the learning rate, β1 as momentum, weight decay and max norm count
 * @param normSquared f32[1]: the squared global norm of all gradients
 */
export function sgd(
  parameter: Value,
  m: Value | undefined,
  grad: Value,
  hyper: Value,
  normSquared: Value,
  attributes: { decay: boolean },
): readonly Value[] {
  const rest = [grad, hyper, normSquared];
  return m
    ? parameter.graph.apply(heavy, [parameter, m, ...rest], attributes)
    : parameter.graph.apply(plain, [parameter, ...rest], attributes);
}

/** For tests of the reference. */
export const sgdOps = { plain, heavy };
