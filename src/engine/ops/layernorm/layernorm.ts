/**
 * n ∘ w + b with n = (x − μ) · r, r = 1/√(mean (x − μ)² + eps), over the last axis (Ba et al. 2016).
 *
 * dx = r·(g∘w − mean(g∘w) − n·mean(g∘w∘n)),  dw = Σ_rows g∘n,  db = Σ_rows g. The statistics are made again in the
 * backward pass, as in rmsnorm.
 *
 * A row may stand far from zero, where mean x² − μ² would cancel: each lane takes squares around its own mean, and the
 * lanes are joined as Chan, Golub & LeVeque (1979) join samples:
 *   Σ (x − μ)² = Σ_lanes (Σ (x − m)² + n·(m − μ)²),   Σ a(x − μ) = Σ_lanes (Σ a(x − m) + (m − μ)·Σ a)
 */
import {
  bytesOf,
  sizeOf,
  type Dim,
  type Dispatch,
  type KernelContext,
  type OpDefinition,
  type Operand,
  type Value,
} from '../../graph/types.ts';
import { allLanes, LANES, rowPasses, total, dot, type RowPasses, type RowShape } from '../row-passes.ts';
import { sumLeading, sumLeadingDispatches } from '../sum-leading/sum-leading.ts';
import { f32 } from '../wgsl.ts';

type NormAttributes = { eps: number };

export const layernormOp: OpDefinition<NormAttributes> = {
  name: 'layernorm',

  infer([x, weight, bias]) {
    const H = last(x!.shape);
    if (String(weight!.shape) !== String([H]) || String(bias!.shape) !== String([H])) {
      throw new RangeError(`layernorm: a weight [${weight!.shape}] and a bias [${bias!.shape}] for [${x!.shape}]`);
    }
    return [x!];
  },

  cost: ([x]) => ({ flops: 7 * sizeOf(x!.shape), bytes: 2 * bytesOf(x!) }),

  gradient(node, [g], needed) {
    const [x, weight] = node.inputs as [Value, Value];
    const apply = (op: OpDefinition, inputs: Value[]): Value => x.graph.apply(op, inputs, node.attributes)[0]!;
    return [
      needed[0] ? apply(layernormInputGradientOp as OpDefinition, [x, weight, g!]) : undefined,
      needed[1] ? apply(layernormWeightGradientOp as OpDefinition, [x, g!]) : undefined,
      needed[2] ? sumLeading(g!, 1) : undefined,
    ];
  },

  reference([x, weight, bias], { eps }) {
    const H = weight!.data.length;
    const { n } = normalized(x!.data, H, eps);
    return [{ shape: x!.shape, data: n.map((value, i) => value * weight!.data[i % H]! + bias!.data[i % H]!) }];
  },

  kernel(context) {
    const [x, weight, bias] = context.inputs as [Operand, Operand, Operand];
    return normPasses(context, {
      label: 'layernorm',
      inputs: { x, w: weight, b: bias },
      out: context.outputs[0]!,
      write: '(x[i] - mean) * r * w[c] + b[c]',
    });
  },
};

const layernormInputGradientOp: OpDefinition<NormAttributes> = {
  name: 'layernorm-input-gradient',
  infer: ([x]) => [x!],
  cost: ([x]) => ({ flops: 14 * sizeOf(x!.shape), bytes: 3 * bytesOf(x!) }),

  reference([x, weight, g], { eps }) {
    const H = weight!.data.length;
    const { n, r } = normalized(x!.data, H, eps);
    const scaled = g!.data.map((value, i) => value * weight!.data[i % H]!);
    const means = meansOf(scaled, H);
    const along = meansOf(
      scaled.map((value, i) => value * n[i]!),
      H,
    );
    const data = scaled.map((value, i) => {
      const row = Math.floor(i / H);
      return r[row]! * (value - means[row]! - n[i]! * along[row]!);
    });
    return [{ shape: x!.shape, data }];
  },

  kernel(context) {
    const [x, weight, g] = context.inputs as [Operand, Operand, Operand];
    return normPasses(context, {
      label: 'layernorm-input-gradient',
      inputs: { x, w: weight, g },
      out: context.outputs[0]!,
      upstream: 'g[i] * w[c]',
      write: 'r * (g[i] * w[c] - upstream_mean - (x[i] - mean) * (r * r * along_mean))',
    });
  },
};

const layernormWeightGradientOp: OpDefinition<NormAttributes> = {
  name: 'layernorm-weight-gradient',
  infer: ([x]) => [{ shape: [last(x!.shape)], dtype: 'f32' }],
  cost: ([x]) => ({ flops: 8 * sizeOf(x!.shape), bytes: 2 * bytesOf(x!) }),

  reference([x, g], { eps }) {
    const H = x!.shape[x!.shape.length - 1]!;
    const { n } = normalized(x!.data, H, eps);
    const data = new Float64Array(H);
    n.forEach((value, i) => (data[i % H]! += g!.data[i]! * value));
    return [{ shape: [H], data }];
  },

  kernel(context) {
    const [x, g] = context.inputs as [Operand, Operand];
    const products = context.scratch(x.shape);
    return [
      ...normPasses(context, {
        label: 'layernorm-weight-gradient',
        inputs: { x, g },
        out: products,
        write: 'g[i] * ((x[i] - mean) * r)',
      }),
      ...sumLeadingDispatches(context, products, context.outputs[0]!),
    ];
  },
};

/** `write` knows the row's `mean` and `r`, and with `upstream` its `upstream_mean` and mean of upstream · (x − mean). */
function normPasses(
  context: KernelContext<NormAttributes>,
  { upstream, ...passes }: Pick<RowPasses, 'label' | 'inputs' | 'out' | 'write'> & { upstream?: string },
): Dispatch[] {
  return rowPasses(context, context.inputs[0]!, {
    ...passes,
    partials: upstream === undefined ? ['own_mean', 'squares'] : ['own_mean', 'squares', 'up', 'along'],
    gather: (each, { width, columns }) => {
      const own = `let d = x[i] - own_mean; squares += ${dot('d', 'd', width)};`;
      const further = `let u = ${upstream}; up += ${total('u', width)}; along += ${dot('u', 'd', width)};`;
      return `${each(`own_mean += ${total('x[i]', width)};`)}
  let count = f32(max((${columns + LANES - 1}u - lane) / ${LANES}u * ${width}u, 1u));
  own_mean /= count;
  ${each(upstream === undefined ? own : `${own} ${further}`)}`;
    },
    join: (partial, row) => joined(partial, row, context.attributes.eps, upstream !== undefined),
  });
}

function joined(
  partial: (name: string, lane: number) => string,
  { H, width, columns }: RowShape,
  eps: number,
  gradient: boolean,
): string {
  // a lane may have no vector at all
  const lanes = allLanes
    .map((lane) => ({ lane, count: width * Math.floor((columns - lane + LANES - 1) / LANES) }))
    .filter(({ count }) => count > 0);
  const sum = (term: (lane: { lane: number; count: number }) => string): string => lanes.map(term).join(' + ');
  const lines = [
    ...lanes.map(({ lane }) => `let m${lane} = ${partial('own_mean', lane)};`),
    `let mean = (${sum(({ lane, count }) => `${f32(count)} * m${lane}`)}) / ${f32(H)};`,
    ...lanes.map(({ lane }) => `let d${lane} = m${lane} - mean;`),
    `let squares = ${sum(({ lane, count }) => `${partial('squares', lane)} + ${f32(count)} * d${lane} * d${lane}`)};`,
    `let r = inverseSqrt(squares / ${f32(H)} + ${f32(eps)});`,
  ];
  if (gradient) {
    lines.push(
      ...lanes.map(({ lane }) => `let u${lane} = ${partial('up', lane)};`),
      `let upstream_mean = (${sum(({ lane }) => `u${lane}`)}) / ${f32(H)};`,
      `let along_mean = (${sum(({ lane }) => `${partial('along', lane)} + d${lane} * u${lane}`)}) / ${f32(H)};`,
    );
  }
  return lines.join('\n  ');
}

const last = (shape: readonly Dim[]): Dim => shape[shape.length - 1]!;

function meansOf(x: Float64Array, H: number): Float64Array {
  const means = new Float64Array(x.length / H);
  x.forEach((value, i) => (means[Math.floor(i / H)]! += value / H));
  return means;
}

function normalized(x: Float64Array, H: number, eps: number): { n: Float64Array; r: Float64Array } {
  const means = meansOf(x, H);
  const centred = x.map((value, i) => value - means[Math.floor(i / H)]!);
  const variances = meansOf(
    centred.map((value) => value * value),
    H,
  );
  const r = variances.map((variance) => 1 / Math.sqrt(variance + eps));
  return { n: centred.map((value, i) => value * r[Math.floor(i / H)]!), r };
}

/** @param weight, bias [H], the last axis of x */
export function layernorm(x: Value, weight: Value, bias: Value, { eps }: { eps: number }): Value {
  return x.graph.apply(layernormOp as OpDefinition, [x, weight, bias], { eps })[0]!;
}
