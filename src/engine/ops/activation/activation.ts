/**
 * The activations of plain and gated MLPs, element by element, by transformers' names: GELU with the normal distribution's Φ
 * (`gelu`) or its tanh form (`gelu_pytorch_tanh`), x·σ(1.702x) (`quick_gelu`), x·σ(x) (`silu`) and max(x, 0) (`relu`, whose
 * slope at 0 is 0 as in PyTorch).
 */
import { bytesOf, sizeOf, type OpDefinition, type Value } from '../../graph/types.ts';
import { elementwise } from '../wgsl.ts';

interface Activation {
  /** WGSL: `fn f(x: value) -> value` and its derivative `fn slope(x: value) -> value`. */
  readonly wgsl: string;
  /** The same in float64. */
  readonly f: (x: number) => number;
  readonly slope: (x: number) => number;
  /** About how many operations f takes. */
  readonly flops: number;
}

const SQRT_2_OVER_PI = Math.sqrt(2 / Math.PI);
const CUBIC = 0.044715;
const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x));
const bend = (x: number): number => Math.tanh(SQRT_2_OVER_PI * (x + CUBIC * x ** 3));

/** x·σ(factor · x). exp(80) is still a finite f32, and σ(±80) is 1 and 2e-35. */
const sigmoidGate = (factor: number): Activation => ({
  wgsl: `fn gate(x: value) -> value { return 1.0 / (1.0 + exp(-clamp(${factor} * x, value(-80.0), value(80.0)))); }
fn f(x: value) -> value { return x * gate(x); }
fn slope(x: value) -> value { let s = gate(x); return s * (1.0 + ${factor} * x * (1.0 - s)); }
`,
  f: (x) => x * sigmoid(factor * x),
  slope: (x) => sigmoid(factor * x) * (1 + factor * x * (1 - sigmoid(factor * x))),
  flops: 6,
});

const ACTIVATIONS = {
  // WGSL has no erf: Abramowitz & Stegun 7.1.26, |error| ≤ 1.5e-7, which is the size of an f32 rounding
  gelu: {
    wgsl: `fn phi(x: value) -> value {
  let z = abs(x) * 0.7071067811865476;
  let t = 1.0 / (1.0 + 0.3275911 * z);
  let poly = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
  let upper = 0.5 * poly * exp(-min(z * z, value(80.0)));
  return select(1.0 - upper, upper, x < value(0.0));
}
fn f(x: value) -> value { return x * phi(x); }
fn slope(x: value) -> value { return phi(x) + x * 0.3989422804014327 * exp(-min(0.5 * x * x, value(80.0))); }
`,
    f: (x) => x * phi(x),
    slope: (x) => phi(x) + (x * Math.exp(-0.5 * x * x)) / Math.sqrt(2 * Math.PI),
    flops: 14,
  },
  gelu_pytorch_tanh: {
    wgsl: `fn bend(x: value) -> value {
  return tanh(clamp(${SQRT_2_OVER_PI} * (x + ${CUBIC} * x * x * x), value(-15.0), value(15.0)));
}
fn f(x: value) -> value { return 0.5 * x * (1.0 + bend(x)); }
fn slope(x: value) -> value {
  let t = bend(x);
  return 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * ${SQRT_2_OVER_PI} * (1.0 + ${3 * CUBIC} * x * x);
}
`,
    f: (x) => 0.5 * x * (1 + bend(x)),
    slope(x) {
      const t = bend(x);
      return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * SQRT_2_OVER_PI * (1 + 3 * CUBIC * x * x);
    },
    flops: 14,
  },
  quick_gelu: sigmoidGate(1.702),
  silu: sigmoidGate(1),
  relu: {
    wgsl: `fn f(x: value) -> value { return max(x, value(0.0)); }
fn slope(x: value) -> value { return select(value(0.0), value(1.0), x > value(0.0)); }
`,
    f: (x) => Math.max(x, 0),
    slope: (x) => Number(x > 0),
    flops: 1,
  },
} satisfies Readonly<Record<string, Activation>>;

export type ActivationName = keyof typeof ACTIVATIONS;
export const ACTIVATION_NAMES = Object.keys(ACTIVATIONS) as ActivationName[];

type ActivationAttributes = { name: ActivationName };

export const activationOp: OpDefinition<ActivationAttributes> = {
  name: 'activation',
  elementwise: true,
  infer: ([x]) => [x!],
  cost: ([x], _outputs, { name }) => ({ flops: ACTIVATIONS[name].flops * sizeOf(x!.shape), bytes: 2 * bytesOf(x!) }),
  gradient: (node, [g]) => g!.graph.apply(activationGradientOp, [node.inputs[0]!, g!], node.attributes),
  reference: ([x], { name }) => [{ shape: x!.shape, data: x!.data.map(ACTIVATIONS[name].f) }],
  kernel: ({ inputs: [x], outputs: [out], attributes: { name } }) => [
    elementwise(name, out!, { x: x! }, 'f(x[i])', { declarations: ACTIVATIONS[name].wgsl }),
  ],
};

export const activationGradientOp: OpDefinition<ActivationAttributes> = {
  name: 'activation-gradient',
  elementwise: true,
  infer: ([x]) => [x!],
  // a slope takes about half as much again
  cost: ([x], _outputs, { name }) => ({
    flops: 1.5 * ACTIVATIONS[name].flops * sizeOf(x!.shape),
    bytes: 3 * bytesOf(x!),
  }),
  reference: ([x, g], { name }) => [
    { shape: x!.shape, data: x!.data.map((value, i) => g!.data[i]! * ACTIVATIONS[name].slope(value)) },
  ],
  kernel: ({ inputs: [x, g], outputs: [out], attributes: { name } }) => [
    elementwise(`${name}-gradient`, out!, { x: x!, g: g! }, 'g[i] * slope(x[i])', {
      declarations: ACTIVATIONS[name].wgsl,
    }),
  ],
};

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

export function activation(x: Value, name: ActivationName): Value {
  return x.graph.apply(activationOp, [x], { name })[0]!;
}
