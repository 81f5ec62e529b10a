/**
 * x · r · (w + offset) with r = 1/√(mean x² + eps) over the last axis. `offset` is 1 for Gemma, which stores w − 1. A weight
 * that is shorter than the axis norms each of its groups by itself (the heads of q and k): rows are as long as the weight.
 *
 * With n = x·r:  dx = r·(g∘w − n·mean(g∘w∘n)),  dw = Σ_rows g∘n. The statistics are made again in the backward pass: that
 * costs a read of x and saves keeping them. How a row is gone through: ../row-passes.ts
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
import { sumLeadingDispatches } from '../sum-leading/sum-leading.ts';
import { allLanes, dot, rowPasses, type RowPasses } from '../row-passes.ts';
import { f32 } from '../wgsl.ts';

type NormAttributes = { eps: number; offset: number };

export const rmsnormOp: OpDefinition<NormAttributes> = {
  name: 'rmsnorm',

  infer([x, weight]) {
    const [H, width] = [weight!.shape[0], last(x!.shape)];
    const fits = typeof H === 'number' && typeof width === 'number' ? width % H === 0 : H === width;
    if (weight!.shape.length !== 1 || !fits) {
      throw new RangeError(`rmsnorm: a weight [${weight!.shape}] for [${x!.shape}]`);
    }
    return [x!];
  },

  cost: ([x]) => ({ flops: 4 * sizeOf(x!.shape), bytes: 2 * bytesOf(x!) }),

  gradient(node, [g], needed) {
    const [x, weight] = node.inputs as [Value, Value];
    const apply = (op: OpDefinition, inputs: Value[], more = {}): Value =>
      x.graph.apply(op, inputs, { ...node.attributes, ...more })[0]!;
    const size = weight.type.shape[0] as number;
    return [
      needed[0] ? apply(rmsnormInputGradientOp as OpDefinition, [x, weight, g!]) : undefined,
      needed[1] ? apply(rmsnormWeightGradientOp as OpDefinition, [x, g!], { size }) : undefined,
    ];
  },

  reference([x, weight], { eps, offset }) {
    const H = weight!.shape[0]!;
    const r = inverseRms(x!.data, H, eps);
    const data = x!.data.map((value, i) => value * r[Math.floor(i / H)]! * (weight!.data[i % H]! + offset));
    return [{ shape: x!.shape, data }];
  },

  kernel(context) {
    const [x, weight] = context.inputs as [Operand, Operand];
    return normPasses(context, weight.size, {
      label: 'rmsnorm',
      inputs: { x, w: weight },
      out: context.outputs[0]!,
      sum: (width) => [dot('x[i]', 'x[i]', width)],
      write: `x[i] * r * ${weightAt('c', context.attributes.offset)}`,
    });
  },
};

const rmsnormInputGradientOp: OpDefinition<NormAttributes> = {
  name: 'rmsnorm-input-gradient',
  infer: ([x]) => [x!],
  cost: ([x]) => ({ flops: 9 * sizeOf(x!.shape), bytes: 3 * bytesOf(x!) }),

  reference([x, weight, g], { eps, offset }) {
    const H = weight!.shape[0]!;
    const r = inverseRms(x!.data, H, eps);
    const scaled = g!.data.map((value, i) => value * (weight!.data[i % H]! + offset));
    const mean = new Float64Array(r.length);
    scaled.forEach((value, i) => (mean[Math.floor(i / H)]! += (value * x!.data[i]! * r[Math.floor(i / H)]!) / H));
    const data = scaled.map((value, i) => {
      const row = Math.floor(i / H);
      return r[row]! * (value - x!.data[i]! * r[row]! * mean[row]!);
    });
    return [{ shape: x!.shape, data }];
  },

  kernel(context) {
    const [x, weight, g] = context.inputs as [Operand, Operand, Operand];
    const gw = `g[i] * ${weightAt('c', context.attributes.offset)}`;
    const H = weight.size;
    return normPasses(context, H, {
      label: 'rmsnorm-input-gradient',
      inputs: { x, w: weight, g },
      out: context.outputs[0]!,
      sum: (width) => [dot('x[i]', 'x[i]', width), dot('x[i]', `(${gw})`, width)],
      write: `r * (${gw} - x[i] * (r * r * sum1 / ${f32(H)}))`,
    });
  },
};

/** `size`: entries of the weight. */
const rmsnormWeightGradientOp: OpDefinition<NormAttributes & { size: number }> = {
  name: 'rmsnorm-weight-gradient',
  infer: (_, { size }) => [{ shape: [size], dtype: 'f32' }],
  cost: ([x]) => ({ flops: 5 * sizeOf(x!.shape), bytes: 2 * bytesOf(x!) }),

  reference([x, g], { eps, size: H }) {
    const r = inverseRms(x!.data, H, eps);
    const data = new Float64Array(H);
    x!.data.forEach((value, i) => (data[i % H]! += g!.data[i]! * value * r[Math.floor(i / H)]!));
    return [{ shape: [H], data }];
  },

  kernel(context) {
    const [x, g] = context.inputs as [Operand, Operand];
    const { size } = context.attributes;
    const products = context.scratch([x.size / size, size]);
    return [
      ...normPasses(context, size, {
        label: 'rmsnorm-weight-gradient',
        inputs: { x, g },
        out: products,
        sum: (width) => [dot('x[i]', 'x[i]', width)],
        write: 'g[i] * x[i] * r',
      }),
      ...sumLeadingDispatches(context, products, context.outputs[0]!),
    ];
  },
};

/** `sum` are terms whose sums over the row `write` knows as sum0, sum1 …; the first is x², from which `r` is made. */
function normPasses(
  context: KernelContext<NormAttributes>,
  H: number,
  { sum, ...passes }: Pick<RowPasses, 'label' | 'inputs' | 'out' | 'write'> & { sum: (width: number) => string[] },
): Dispatch[] {
  const partials = sum(1).map((_, n) => `sum${n}`);
  const { size } = context.inputs[0]!;
  return rowPasses(
    context,
    { size, shape: [size / H, H] },
    {
      ...passes,
      partials,
      gather: (each, { width }) =>
        each(
          sum(width)
            .map((term, n) => `sum${n} += ${term};`)
            .join(' '),
        ),
      join: (partial) => `${partials.map((name) => `var ${name} = 0.0;`).join(' ')}
  ${allLanes.map((lane) => partials.map((name) => `${name} += ${partial(name, lane)};`).join(' ')).join('\n  ')}
  let r = inverseSqrt(sum0 / ${f32(H)} + ${f32(context.attributes.eps)});`,
    },
  );
}

const last = (shape: readonly Dim[]): Dim => shape[shape.length - 1]!;
const weightAt = (i: string, offset: number): string => (offset === 0 ? `w[${i}]` : `(w[${i}] + ${f32(offset)})`);

function inverseRms(x: Float64Array, H: number, eps: number): Float64Array {
  const squares = new Float64Array(x.length / H);
  x.forEach((value, i) => (squares[Math.floor(i / H)]! += value * value));
  return squares.map((sum) => 1 / Math.sqrt(sum / H + eps));
}

/** @param options.offset added to the weight: 1 for Gemma */
export function rmsnorm(x: Value, weight: Value, { eps, offset = 0 }: { eps: number; offset?: number }): Value {
  return x.graph.apply(rmsnormOp, [x, weight], { eps, offset })[0]!;
}
