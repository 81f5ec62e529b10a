/**
 * x · r · (w + offset) with r = 1/√(mean x² + eps) over the last axis. `offset` is 1 for Gemma, which stores w − 1.
 *
 * With n = x·r:  dx = r·(g∘w − n·mean(g∘w∘n)),  dw = Σ_rows g∘n. The statistics are made again in the backward pass: that
 * costs a read of x and saves keeping them. Every row is a workgroup of 64 threads.
 */
import { bytesOf, sizeOf, type Dim, type OpDefinition, type Value } from '../../graph/types.ts';
import { sumLeadingDispatches } from '../sum-leading/sum-leading.ts';
import { SUM_OF_64_THREADS, f32, rowGrid } from '../wgsl.ts';

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

  kernel({ inputs: [x, weight], outputs: [out], attributes: { eps, offset } }) {
    const { H, rows, width, element } = rowsOf(x!);
    const grid = rowGrid(rows);
    return [
      {
        label: `rmsnorm ${rows}x${H}`,
        bindings: [
          { name: 'x', operand: x!, access: 'read', element },
          { name: 'w', operand: weight!, access: 'read', element },
          { name: 'out', operand: out!, access: 'write', element },
        ],
        code: `${SUM_OF_64_THREADS}${grid.entry} {
  ${grid.index}
  let start = row * ${H / width}u;
  var squares = 0.0;
  for (var i = lid; i < ${H / width}u; i += 64u) { let v = x[start + i]; squares += ${dot('v', 'v', width)}; }
  let r = inverseSqrt(sum_threads(lid, squares) / ${f32(H)} + ${f32(eps)});
  for (var i = lid; i < ${H / width}u; i += 64u) { out[start + i] = x[start + i] * r * ${weightAt('i', offset)}; }
}`,
        workgroups: grid.workgroups,
      },
    ];
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

  kernel({ inputs: [x, weight, g], outputs: [out], attributes: { eps, offset } }) {
    const { H, rows, width, element } = rowsOf(x!);
    const grid = rowGrid(rows);
    return [
      {
        label: `rmsnorm-input-gradient ${rows}x${H}`,
        bindings: [
          { name: 'x', operand: x!, access: 'read', element },
          { name: 'w', operand: weight!, access: 'read', element },
          { name: 'g', operand: g!, access: 'read', element },
          { name: 'out', operand: out!, access: 'write', element },
        ],
        code: `${SUM_OF_64_THREADS}${grid.entry} {
  ${grid.index}
  let start = row * ${H / width}u;
  var squares = 0.0;
  var products = 0.0;
  for (var i = lid; i < ${H / width}u; i += 64u) {
    let v = x[start + i];
    let gw = g[start + i] * ${weightAt('i', offset)};
    squares += ${dot('v', 'v', width)};
    products += ${dot('v', 'gw', width)};
  }
  let r = inverseSqrt(sum_threads(lid, squares) / ${f32(H)} + ${f32(eps)});
  let back = r * r * sum_threads(lid, products) / ${f32(H)};
  for (var i = lid; i < ${H / width}u; i += 64u) {
    out[start + i] = r * (g[start + i] * ${weightAt('i', offset)} - x[start + i] * back);
  }
}`,
        workgroups: grid.workgroups,
      },
    ];
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
    const { inputs, outputs, attributes, scratch } = context;
    const [x, g] = inputs;
    const { H, rows, width, element } = rowsOf(x!);
    const grid = rowGrid(rows);
    const products = scratch([rows, H]);
    return [
      {
        label: `rmsnorm-weight-gradient ${rows}x${H}`,
        bindings: [
          { name: 'x', operand: x!, access: 'read', element },
          { name: 'g', operand: g!, access: 'read', element },
          { name: 'products', operand: products, access: 'write', element },
        ],
        code: `${SUM_OF_64_THREADS}${grid.entry} {
  ${grid.index}
  let start = row * ${H / width}u;
  var squares = 0.0;
  for (var i = lid; i < ${H / width}u; i += 64u) { let v = x[start + i]; squares += ${dot('v', 'v', width)}; }
  let r = inverseSqrt(sum_threads(lid, squares) / ${f32(H)} + ${f32(attributes.eps)});
  for (var i = lid; i < ${H / width}u; i += 64u) { products[start + i] = g[start + i] * x[start + i] * r; }
}`,
        workgroups: grid.workgroups,
      },
      ...sumLeadingDispatches(context, products, outputs[0]!),
    ];
  },
};

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
