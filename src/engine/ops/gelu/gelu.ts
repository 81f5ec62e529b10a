/**
 * GELU: x·Φ(x) with the normal distribution's Φ ('none', as PyTorch names it), or its tanh form ('tanh': gelu_new,
 * gelu_pytorch_tanh). WGSL has no erf: Abramowitz & Stegun 7.1.26, |error| ≤ 1.5e-7, which is the size of an f32 rounding.
 */
import { bytesOf, sizeOf, type OpDefinition, type Value } from '../../graph/types.ts';
import { elementwise } from '../wgsl.ts';

export type GeluForm = 'none' | 'tanh';
type GeluAttributes = { approximate: GeluForm };

const SQRT_2_OVER_PI = Math.sqrt(2 / Math.PI);
const CUBIC = 0.044715;

const DECLARATIONS: Record<GeluForm, string> = {
  none: `fn phi(x: value) -> value {
  let z = abs(x) * 0.7071067811865476;
  let t = 1.0 / (1.0 + 0.3275911 * z);
  let poly = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
  let upper = 0.5 * poly * exp(-min(z * z, value(80.0)));
  return select(1.0 - upper, upper, x < value(0.0));
}
fn gelu(x: value) -> value { return x * phi(x); }
fn slope(x: value) -> value { return phi(x) + x * 0.3989422804014327 * exp(-min(0.5 * x * x, value(80.0))); }
`,
  tanh: `fn bend(x: value) -> value {
  return tanh(clamp(${SQRT_2_OVER_PI} * (x + ${CUBIC} * x * x * x), value(-15.0), value(15.0)));
}
fn gelu(x: value) -> value { return 0.5 * x * (1.0 + bend(x)); }
fn slope(x: value) -> value {
  let t = bend(x);
  return 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * ${SQRT_2_OVER_PI} * (1.0 + ${3 * CUBIC} * x * x);
}
`,
};

export const geluOp: OpDefinition<GeluAttributes> = {
  name: 'gelu',
  infer: ([x]) => [x!],
  cost: ([x]) => ({ flops: 14 * sizeOf(x!.shape), bytes: 2 * bytesOf(x!) }),
  gradient: (node, [g]) => g!.graph.apply(geluGradientOp, [node.inputs[0]!, g!], node.attributes),
  reference: ([x], { approximate }) => [
    {
      shape: x!.shape,
      data: x!.data.map((value) => (approximate === 'none' ? value * phi(value) : 0.5 * value * (1 + bend(value)))),
    },
  ],
  kernel: ({ inputs: [x], outputs: [out], attributes: { approximate } }) => [
    elementwise(`gelu-${approximate}`, out!, { x: x! }, 'gelu(x[i])', { declarations: DECLARATIONS[approximate] }),
  ],
};

export const geluGradientOp: OpDefinition<GeluAttributes> = {
  name: 'gelu-gradient',
  infer: ([x]) => [x!],
  cost: ([x]) => ({ flops: 20 * sizeOf(x!.shape), bytes: 3 * bytesOf(x!) }),
  reference([x, g], { approximate }) {
    const slope = (value: number): number => {
      if (approximate === 'none') return phi(value) + (value * Math.exp(-0.5 * value * value)) / Math.sqrt(2 * Math.PI);
      const t = bend(value);
      return 0.5 * (1 + t) + 0.5 * value * (1 - t * t) * SQRT_2_OVER_PI * (1 + 3 * CUBIC * value * value);
    };
    return [{ shape: x!.shape, data: x!.data.map((value, i) => g!.data[i]! * slope(value)) }];
  },
  kernel: ({ inputs: [x, g], outputs: [out], attributes: { approximate } }) => [
    elementwise(`gelu-${approximate}-gradient`, out!, { x: x!, g: g! }, 'g[i] * slope(x[i])', {
      declarations: DECLARATIONS[approximate],
    }),
  ],
};

const bend = (x: number): number => Math.tanh(SQRT_2_OVER_PI * (x + CUBIC * x ** 3));

/** Φ in float64: the series of erf near 0, the continued fraction of erfc beyond. */
function phi(x: number): number {
  const z = Math.abs(x) / Math.SQRT2;
  let upper: number;
  if (z < 2.5) {
    let term = z;
    let sum = z;
    for (let n = 1; Math.abs(term) > 1e-18; n++) {
      term *= (-z * z) / n;
      sum += term / (2 * n + 1);
    }
    upper = 0.5 - sum / Math.sqrt(Math.PI);
  } else {
    let fraction = z;
    for (let n = 60; n > 0; n--) fraction = z + n / 2 / fraction;
    upper = (0.5 * Math.exp(-z * z)) / (fraction * Math.sqrt(Math.PI));
  }
  return x < 0 ? upper : 1 - upper;
}

export function gelu(x: Value, { approximate }: { readonly approximate: GeluForm }): Value {
  return x.graph.apply(geluOp, [x], { approximate })[0]!;
}
