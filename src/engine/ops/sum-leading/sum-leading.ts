/**
 * Sums over all leading axes and keeps the last ones: the gradient of a bias, [B, T, C] ─▶ [C].
 * Two stages in a fixed order: up to 64 blocks of rows, then the blocks.
 */
import {
  bytesOf,
  sizeOf,
  type Dispatch,
  type KernelContext,
  type OpDefinition,
  type Operand,
  type Value,
} from '../../graph/types.ts';
import { flatGrid, rolled } from '../wgsl.ts';

const MAX_BLOCKS = 64;

export const sumLeadingOp: OpDefinition<{ keep: number }> = {
  name: 'sum-leading',

  infer([x], { keep }) {
    return [{ shape: x!.shape.slice(x!.shape.length - keep), dtype: 'f32' }];
  },

  cost: ([x], [out]) => ({ flops: sizeOf(x!.shape), bytes: bytesOf(x!) + bytesOf(out!) }),

  reference([x], _, [out]) {
    const data = new Float64Array(sizeOf(out!.shape));
    x!.data.forEach((value, i) => (data[i % data.length]! += value));
    return [{ shape: out!.shape as number[], data }];
  },

  kernel: (context) => sumLeadingDispatches(context, context.inputs[0]!, context.outputs[0]!),
};

/** For kernels whose last stage this is: `x` may be their own scratch. */
export function sumLeadingDispatches(
  { scratch }: Pick<KernelContext, 'scratch'>,
  x: Operand,
  out: Operand,
): Dispatch[] {
  const columns = out.size;
  const rows = x.size / columns;
  const blocks = Math.min(MAX_BLOCKS, rows);
  const perBlock = Math.ceil(rows / blocks);
  const partial = scratch([blocks, columns]);
  const first = flatGrid(blocks * columns);
  const second = flatGrid(columns);
  return [
    {
      label: `sum-leading ${rows}x${columns}`,
      bindings: [
        { name: 'x', operand: x, access: 'read' },
        { name: 'partial_sums', operand: partial, access: 'write' },
      ],
      code: `${first.entry} {
  ${first.index}
  let column = i % ${columns}u;
  let start = (i / ${columns}u) * ${perBlock}u;
  var sum = 0.0;
  for (var row = start; row < min(start + ${rolled(perBlock, 'i')}, ${rows}u); row++) { sum += x[row * ${columns}u + column]; }
  partial_sums[i] = sum;
}`,
      workgroups: first.workgroups,
    },
    {
      label: `sum-leading blocks ${blocks}x${columns}`,
      bindings: [
        { name: 'partial_sums', operand: partial, access: 'read' },
        { name: 'out', operand: out, access: 'write' },
      ],
      code: `${second.entry} {
  ${second.index}
  var sum = 0.0;
  for (var block = 0u; block < ${rolled(blocks, 'i')}; block++) { sum += partial_sums[block * ${columns}u + i]; }
  out[i] = sum;
}`,
      workgroups: second.workgroups,
    },
  ];
}

/** @param keep how many of the last axes stay */
export function sumLeading(x: Value, keep: number): Value {
  return x.graph.apply(sumLeadingOp, [x], { keep })[0]!;
}
