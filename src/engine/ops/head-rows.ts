/**
 * What ops share that say something of every row of logits of a language model's head, z = hidden Wᵀ (+ b), or
 * cap · tanh(that / cap) with a `softcap`: the logits of one chunk of rows at a time, so that [tokens × vocabulary] never
 * exists, and one workgroup a row over them; log Σ exp(z / T) at several temperatures.
 */
import {
  bytesOf,
  sizeOf,
  type Binding,
  type Cost,
  type Dispatch,
  type KernelContext,
  type Operand,
  type TensorType,
} from '../graph/types.ts';
import { chunksOf } from './linear-loss/chunks.ts';
import { matmulDispatches } from './matmul/windows.ts';
import { softcapDispatches } from './softcap/softcap.ts';
import { f32, flatGrid, rowGrid, workgroupSum } from './wgsl.ts';

export type HeadAttributes = {
  readonly temperatures: readonly number[];
  /** Bounds the logits. */
  readonly softcap?: number;
};

/** Threads that share a row. */
export const THREADS = 256;

/** Of the inputs hidden [..., H] and weight [V, H]. */
export function headCost(hidden: TensorType, weight: TensorType): Cost {
  const rows = sizeOf(hidden.shape.slice(0, -1));
  return {
    flops: 2 * rows * sizeOf(weight.shape),
    bytes: bytesOf(hidden) + Math.ceil(rows / 128) * bytesOf(weight),
  };
}

/** @throws where the widths of hidden, weight and bias do not fit */
export function checkHead(name: string, hidden: TensorType, weight: TensorType, bias: TensorType | undefined): void {
  if (hidden.shape.at(-1) === weight.shape[1] && (!bias || bias.shape[0] === weight.shape[0])) return;
  throw new RangeError(`${name}: hidden [${hidden.shape}], weight [${weight.shape}], bias [${bias?.shape}]`);
}

/** In float64: the logits of a row. */
export function headReference(
  hidden: Float64Array,
  weight: Float64Array,
  bias: Float64Array | undefined,
  softcap: number | undefined,
): Float64Array {
  const H = hidden.length;
  const z = bias ? bias.slice() : new Float64Array(weight.length / H);
  for (let v = 0; v < z.length; v++) for (let h = 0; h < H; h++) z[v]! += weight[v * H + h]! * hidden[h]!;
  return softcap === undefined ? z : z.map((value) => softcap * Math.tanh(value / softcap));
}

/** log Σ exp(z / T), the sum in float64. */
export function logSumExp(z: ArrayLike<number>, largest: number, T: number): number {
  let sum = 0;
  for (let v = 0; v < z.length; v++) sum += Math.exp((z[v]! - largest) / T);
  return largest / T + Math.log(sum);
}

type Head = {
  readonly hidden: Operand;
  readonly weight: Operand;
  readonly bias: Operand | undefined;
};

/** What a kernel of rows binds beside `logits`: `each` elements a row of all rows. */
export interface OfRows {
  readonly name: string;
  readonly operand: Operand;
  readonly each: number;
  readonly access: Binding['access'];
}

/**
 * Chunk by chunk, the logits and then one workgroup a row.
 * @param code of the kernel, which finds its row's logits at `logits[row * V + v]`
 */
export function headRows(
  label: string,
  { hidden, weight, bias }: Head,
  { attributes, limits, scratch }: Pick<KernelContext<HeadAttributes>, 'attributes' | 'limits' | 'scratch'>,
  bindings: readonly OfRows[],
  code: (grid: ReturnType<typeof rowGrid>, V: number) => string,
): Dispatch[] {
  const { softcap } = attributes;
  const [V, H] = weight.shape as [number, number];
  const chunks = chunksOf(hidden.size / H, V, limits.maxStorageBufferBindingSize);
  const logits = scratch([chunks[0]!.rows, V]);
  return chunks.flatMap(({ start, rows }): Dispatch[] => {
    const grid = rowGrid(rows, THREADS);
    return [
      ...matmulDispatches({
        limits,
        a: hidden,
        b: weight,
        out: logits,
        M: rows,
        N: V,
        K: H,
        transB: true,
        first: { a: start },
      }),
      ...(bias ? [addBias(label, logits, bias, rows, V)] : []),
      ...(softcap === undefined ? [] : softcapDispatches(logits, logits, softcap, rows * V)),
      {
        label: `${label} rows ${rows}x${V}`,
        bindings: [
          { name: 'logits', operand: logits, access: 'read' },
          ...bindings.map(({ name, operand, each, access }) => ({
            name,
            operand,
            access,
            offset: start * each,
            length: rows * each,
          })),
        ],
        code: code(grid, V),
        workgroups: grid.workgroups,
      },
    ];
  });
}

function addBias(label: string, logits: Operand, bias: Operand, rows: number, V: number): Dispatch {
  const grid = flatGrid(rows * V);
  return {
    label: `${label} bias ${rows}x${V}`,
    bindings: [
      { name: 'logits', operand: logits, access: 'write' },
      { name: 'bias', operand: bias, access: 'read' },
    ],
    code: `${grid.entry} {\n  ${grid.index}\n  logits[i] += bias[i % ${V}u];\n}`,
    workgroups: grid.workgroups,
  };
}

/** What `logZWgsl` calls. */
export const LOG_Z_FUNCTIONS = workgroupSum(THREADS);

/**
 * WGSL that writes `log_z` of a row. Has: `row`, `lid`, `base` (where its logits begin) and `m`, the largest of them.
 * @param and what one thread does with the sum of exp((z − m) / T) of a temperature, by its index
 */
export function logZWgsl(
  temperatures: readonly number[],
  V: number,
  and: (t: number, total: string) => string = () => '',
): string {
  return groupsOfFour(temperatures)
    .map(
      (group, g) => `  {
    var partial = vec4<f32>();
    for (var v = lid; v < ${V}u; v += ${THREADS}u) {
      let d = logits[base + v] - m;
      ${group.map((T, i) => `partial[${i}] += exp(d / ${f32(T)});`).join(' ')}
    }
    let total = sum_all(lid, partial);
    if (lid == 0u) {
      ${group.map((T, i) => `log_z[row * ${temperatures.length}u + ${4 * g + i}u] = m / ${f32(T)} + log(total[${i}]);`).join('\n      ')}
    }${group.map((_, i) => and(4 * g + i, `total[${i}]`)).join('')}
  }`,
    )
    .join('\n');
}

function groupsOfFour(temperatures: readonly number[]): number[][] {
  return Array.from({ length: Math.ceil(temperatures.length / 4) }, (_, g) => temperatures.slice(4 * g, 4 * g + 4));
}
