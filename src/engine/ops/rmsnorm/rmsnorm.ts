/**
 * x · r · (w + offset) with r = 1/√(mean x² + eps) over the last axis. `offset` is 1 for Gemma, which stores w − 1.
 *
 * With n = x·r:  dx = r·(g∘w − n·mean(g∘w∘n)),  dw = Σ_rows g∘n. The statistics are made again in the backward pass: that
 * costs a read of x and saves keeping them.
 *
 * Two dispatches and no barrier: LANES threads a row sum what the statistics need over their strides, then one thread a
 * vector adds the LANES partial sums of its row and writes. A workgroup a row with a shared sum was three times slower on
 * SwiftShader (barriers), and leaves most of a GPU's 64 threads idle for rows of 24 vectors.
 */
import {
  bytesOf,
  sizeOf,
  type Binding,
  type Dim,
  type Dispatch,
  type KernelContext,
  type OpDefinition,
  type Operand,
  type Value,
} from '../../graph/types.ts';
import { sumLeadingDispatches } from '../sum-leading/sum-leading.ts';
import { f32, flatGrid } from '../wgsl.ts';

type NormAttributes = { eps: number; offset: number };

export const rmsnormOp: OpDefinition<NormAttributes> = {
  name: 'rmsnorm',

  infer([x, weight]) {
    if (weight!.shape.length !== 1 || weight!.shape[0] !== last(x!.shape)) {
      throw new RangeError(`rmsnorm: a weight [${weight!.shape}] for [${x!.shape}]`);
    }
    return [x!];
  },

  cost: ([x]) => ({ flops: 4 * sizeOf(x!.shape), bytes: 2 * bytesOf(x!) }),

  gradient(node, [g], needed) {
    const [x, weight] = node.inputs as [Value, Value];
    const apply = (op: OpDefinition, inputs: Value[]): Value => x.graph.apply(op, inputs, node.attributes)[0]!;
    return [
      needed[0] ? apply(rmsnormInputGradientOp as OpDefinition, [x, weight, g!]) : undefined,
      needed[1] ? apply(rmsnormWeightGradientOp as OpDefinition, [x, g!]) : undefined,
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
    return twoPasses(context, {
      label: 'rmsnorm',
      inputs: { x, w: weight },
      out: context.outputs[0]!,
      sum: (width) => [dot('x[i]', 'x[i]', width)],
      write: (r) => `x[i] * ${r} * ${weightAt('c', context.attributes.offset)}`,
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
    return twoPasses(context, {
      label: 'rmsnorm-input-gradient',
      inputs: { x, w: weight, g },
      out: context.outputs[0]!,
      sum: (width) => [dot('x[i]', 'x[i]', width), dot('x[i]', `(${gw})`, width)],
      write: (r) => `${r} * (${gw} - x[i] * (${r} * ${r} * sums[1] / ${f32(H)}))`,
    });
  },
};

const rmsnormWeightGradientOp: OpDefinition<NormAttributes> = {
  name: 'rmsnorm-weight-gradient',
  infer: ([x]) => [{ shape: [last(x!.shape)], dtype: 'f32' }],
  cost: ([x]) => ({ flops: 5 * sizeOf(x!.shape), bytes: 2 * bytesOf(x!) }),

  reference([x, g], { eps }) {
    const H = x!.shape[x!.shape.length - 1]!;
    const r = inverseRms(x!.data, H, eps);
    const data = new Float64Array(H);
    x!.data.forEach((value, i) => (data[i % H]! += g!.data[i]! * value * r[Math.floor(i / H)]!));
    return [{ shape: [H], data }];
  },

  kernel(context) {
    const [x, g] = context.inputs as [Operand, Operand];
    const products = context.scratch(x.shape);
    return [
      ...twoPasses(context, {
        label: 'rmsnorm-weight-gradient',
        inputs: { x, g },
        out: products,
        sum: (width) => [dot('x[i]', 'x[i]', width)],
        write: (r) => `g[i] * x[i] * ${r}`,
      }),
      ...sumLeadingDispatches(context, products, context.outputs[0]!),
    ];
  },
};

/** Threads that share a row's sums. */
const LANES = 8;

interface TwoPasses {
  readonly label: string;
  /** By the names they have in WGSL; `i` indexes them, `c` a weight. x is the first. */
  readonly inputs: Readonly<Record<string, Operand>>;
  readonly out: Operand;
  /** Terms that are summed over a row, the first x². */
  readonly sum: (width: number) => string[];
  /** What is written; `r` is the inverse root mean square, `sums[n]` the n-th sum over the row. */
  readonly write: (r: string) => string;
}

function twoPasses(context: KernelContext<NormAttributes>, passes: TwoPasses): Dispatch[] {
  const { H, rows, width, element } = rowsOf(context.inputs[0]!);
  const columns = H / width;
  const terms = passes.sum(width);
  const partial = context.scratch([rows, LANES, terms.length]);
  const sums = flatGrid(rows * LANES);
  const vectors = flatGrid(rows * columns);
  const bindings: Binding[] = Object.entries(passes.inputs).map(([name, operand]) => ({
    name,
    operand,
    access: 'read',
    element,
  }));
  const used = (code: string): Binding[] => bindings.filter(({ name }) => code.includes(`${name}[`));
  const adding = terms.map((term, n) => `sum${n} += ${term};`).join(' ');
  const writing = passes.write('r');
  return [
    {
      label: `${passes.label} sums ${rows}x${H}`,
      bindings: [...used(adding), { name: 'partial_sums', operand: partial, access: 'write' }],
      code: `${sums.entry} {
  let lane = gid.x % ${LANES}u;
  ${sums.index.replace('let i =', 'let item =').replace('(i >=', '(item >=')}
  let start = (item / ${LANES}u) * ${columns}u;
  ${terms.map((_, n) => `var sum${n} = 0.0;`).join(' ')}
  for (var c = lane; c < ${columns}u; c += ${LANES}u) {
    let i = start + c;
    ${adding}
  }
  ${terms.map((_, n) => `partial_sums[item * ${terms.length}u + ${n}u] = sum${n};`).join(' ')}
}`,
      workgroups: sums.workgroups,
    },
    {
      label: `${passes.label} ${rows}x${H}`,
      bindings: [
        ...used(writing),
        { name: 'partial_sums', operand: partial, access: 'read' },
        { name: 'out', operand: passes.out, access: 'write', element },
      ],
      code: `${vectors.entry} {
  ${vectors.index}
  let c = i % ${columns}u;
  let from_sums = (i / ${columns}u) * ${LANES * terms.length}u;
  var sums = vec2<f32>();
  ${Array.from({ length: LANES }, (_, lane) => terms.map((_, n) => `sums[${n}] += partial_sums[from_sums + ${lane * terms.length + n}u];`).join(' ')).join('\n  ')}
  let r = inverseSqrt(sums[0] / ${f32(H)} + ${f32(context.attributes.eps)});
  out[i] = ${writing};
}`,
      workgroups: vectors.workgroups,
    },
  ];
}

function rowsOf(x: { readonly shape: readonly number[]; readonly size: number }): {
  H: number;
  rows: number;
  width: number;
  element: string;
} {
  const H = x.shape[x.shape.length - 1]!;
  const width = H % 4 === 0 ? 4 : 1;
  return { H, rows: x.size / H, width, element: width === 4 ? 'vec4<f32>' : 'f32' };
}

const last = (shape: readonly Dim[]): Dim => shape[shape.length - 1]!;
const dot = (a: string, b: string, width: number): string => (width === 4 ? `dot(${a}, ${b})` : `${a} * ${b}`);
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
