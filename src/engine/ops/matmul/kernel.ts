/**
 * out[M,N] = A[M,K] · B[K,N] (or += ), any operand stored transposed, as one dispatch. Three variants: this one, for GPUs;
 * few-rows.ts, for the few rows of decoding there; lanes.ts, for adapters that pay for a load lane by lane.
 *
 * Register tiles: a thread owns TM x TN entries of `out` in named accumulators (never an indexed local array, which
 * compilers put into memory), goes through K four steps at a time, and reads each operand by vec4 along whichever of its
 * axes is contiguous. A tile at an edge is moved inwards, so that no load needs a bound; it stores only what is its own.
 * Sums go over k in ascending order, so every variant of this file gives the same bits.
 */
import type { Dispatch, KernelLimits, Operand } from '../../graph/types.ts';
import { weightReader } from '../../graph/packing.ts';
import { rolled } from '../wgsl.ts';
import { fewRowsCode, isFewRows } from './few-rows.ts';
import { chooseLanes, isCpu, lanesCode } from './lanes.ts';

export interface MatmulWindow {
  readonly a: Operand;
  readonly b: Operand;
  readonly out: Operand;
  readonly M: number;
  readonly N: number;
  readonly K: number;
  /** A is stored [K, M]. */
  readonly transA?: boolean;
  /** B is stored [N, K]. */
  readonly transB?: boolean;
  /** First element of each window in its operand; a multiple of 64 (256 bytes). */
  readonly offsets?: { readonly a?: number; readonly b?: number; readonly out?: number };
  /** Elements from a stored row to the next, where a window has some of the columns only. B's rows are always whole. */
  readonly strides?: { readonly a: number; readonly out: number };
  /** out += A·B instead of out = A·B: the sums go on from what is there, with the same bits as one longer sum. */
  readonly accumulate?: boolean;
  readonly label?: string;
  /** Chooses the variant; without, the one that runs everywhere. */
  readonly limits?: Pick<KernelLimits, 'subgroupSize'>;
}

/** What one thread computes and how threads are grouped. */
export interface MatmulTile {
  readonly TM: number;
  readonly TN: number;
  /** Threads of a workgroup along N and M. */
  readonly WX: number;
  readonly WY: number;
}

const MAX_GROUPS = 65535;

/** The choice of tile by shape; with `chooseLanes` the place where a tuner would come in. */
export function chooseTile(M: number, N: number): MatmulTile {
  const TM = largestPower(Math.min(M, 4));
  const TN = largestPower(Math.min(N, TM === 4 ? 4 : 8));
  const WX = Math.min(M <= 4 * TM ? 64 : 8, nextPower(Math.ceil(N / TN)));
  const WY = Math.min(64 / WX, nextPower(Math.ceil(M / TM)));
  return { TM, TN, WX, WY };
}

export function matmulDispatch(window: MatmulWindow): Dispatch {
  const { M, N, K, offsets } = window;
  const lanes = chooseLanes(M, N, window.limits?.subgroupSize);
  const { code, elements, workgroups } = lanes
    ? lanesCode(window, lanes)
    : window.limits && !isCpu(window.limits.subgroupSize) && isFewRows(window)
      ? fewRowsCode(window)
      : tiledCode(window, chooseTile(M, N));
  const strides = stridesOf(window);
  const [rowsA, columnsA] = window.transA ? [K, M] : [M, K];
  const lengths = { a: (rowsA - 1) * strides.a + columnsA, b: K * N, out: (M - 1) * strides.out + N };
  const binding = (name: 'a' | 'b' | 'out') => ({
    name,
    operand: window[name],
    access: name === 'out' ? ('write' as const) : ('read' as const),
    element: elements[name],
    offset: offsets?.[name] ?? 0,
    length: lengths[name],
  });
  const layout = `${window.transA ? 'T' : 'N'}${window.transB ? 'T' : 'N'}`;
  return {
    label: window.label ?? `matmul ${layout} ${M}x${K}x${N}`,
    bindings: [binding('a'), binding('b'), binding('out')],
    code,
    workgroups,
    flops: 2 * M * N * K,
    subgroups: lanes !== undefined,
  };
}

export function stridesOf({ M, N, K, transA, strides }: MatmulWindow): { a: number; out: number } {
  return strides ?? { a: transA ? M : K, out: N };
}

export interface MatmulCode {
  readonly code: string;
  /** WGSL element types of the three arrays. */
  readonly elements: Record<'a' | 'b' | 'out', string>;
  readonly workgroups: Dispatch['workgroups'];
}

function tiledCode(window: MatmulWindow, { TM, TN, WX, WY }: MatmulTile): MatmulCode {
  const { b: weight, M, N, K, transA = false, transB = false, accumulate = false } = window;
  const strides = stridesOf(window);
  // an accumulator spans `width` columns of a row
  const width = Math.min(TN, 4);
  const type = ['', 'f32', 'vec2<f32>', '', 'vec4<f32>'][width]!;
  const columns = range(TN / width);
  const rows = range(TM);

  const evenA = strides.a % 4 === 0 && (transA ? M % 4 === 0 && TM % 4 === 0 : K % 4 === 0);
  const evenB = transB ? K % 4 === 0 : N % 4 === 0 && TN % 4 === 0;
  // four steps of a scalar operand are too many loads for the slow compilers of software adapters: go step by step then
  const vectorA = evenA && (evenB || transA);
  const vectorB = evenB && (evenA || !transB);
  const unroll = vectorA && vectorB ? 4 : 1;
  const vectorOut = strides.out % 4 === 0 && N % 4 === 0 && TN % 4 === 0;
  const reader = weightReader('b', weight.type.dtype, vectorB ? 4 : 1);

  /** Statements that load A and B for steps k .. k + steps - 1, and the multiplications. */
  const block = (steps: number): string => {
    const lines: string[] = [];
    // a(i, s) and b(j, s) are expressions for entries of step s once the loads are written
    let a = (i: number, s: number): string => `a${i}_${s}`;
    let b = (j: number, s: number): string => `b${j}_${s}`;
    if (vectorA && !transA) {
      rows.forEach((i) => lines.push(`let a${i} = a[((m + ${i}u) * ${strides.a}u + k) / 4u];`));
      a = (i, s) => `a${i}[${s}]`;
    } else if (vectorA) {
      for (const s of range(steps))
        for (const q of range(TM / 4)) lines.push(`let a${q}_${s} = a[((k + ${s}u) * ${strides.a}u + m) / 4u + ${q}u];`);
      a = (i, s) => `a${i >> 2}_${s}[${i & 3}]`;
    } else {
      for (const s of range(steps))
        for (const i of rows) {
          const at = transA ? `(k + ${s}u) * ${strides.a}u + m + ${i}u` : `(m + ${i}u) * ${strides.a}u + k + ${s}u`;
          lines.push(`let a${i}_${s} = a[${at}];`);
        }
    }
    if (vectorB && transB) {
      range(TN).forEach((j) => lines.push(`let b${j} = ${reader.four(`(n + ${j}u) * ${K}u + k`)};`));
      b = (j, s) => `b${j}[${s}]`;
    } else if (vectorB) {
      for (const s of range(steps))
        for (const q of columns) lines.push(`let b${q}_${s} = ${reader.four(`(k + ${s}u) * ${N}u + n + ${4 * q}u`)};`);
    } else {
      for (const s of range(steps))
        for (const j of range(TN)) {
          const at = transB ? `(n + ${j}u) * ${K}u + k + ${s}u` : `(k + ${s}u) * ${N}u + n + ${j}u`;
          lines.push(`let b${j}_${s} = ${reader.one(at)};`);
        }
    }
    for (const s of range(steps))
      for (const q of columns) {
        const parts = range(width).map((j) => b(q * width + j, s));
        const vector = vectorB && !transB ? `b${q}_${s}` : width === 1 ? parts[0]! : `${type}(${parts.join(', ')})`;
        lines.push(`let v${q}_${s} = ${vector};`);
        for (const i of rows) lines.push(`c${i}_${q} = fma(${type}(${a(i, s)}), v${q}_${s}, c${i}_${q});`);
      }
    return lines.join('\n    ');
  };

  const guarded = (what: string, statement: string): string =>
    what === '' ? statement : `if (${what}) { ${statement} }`;
  /** Where entries of row i lie that start at column `q` of the accumulators, or at its entry j. */
  const at = (i: number, q: number, j?: number): string =>
    j === undefined
      ? `out[((m + ${i}u) * ${strides.out}u + n) / 4u + ${q}u]`
      : `out[(m + ${i}u) * ${strides.out}u + n + ${q * width + j}u]`;
  const begin = (i: number, q: number): string => {
    if (!accumulate) return `${type}()`;
    return vectorOut
      ? at(i, q)
      : `${type}(${range(width)
          .map((j) => at(i, q, j))
          .join(', ')})`;
  };
  const storeRow = (i: number): string => {
    const statements = columns.flatMap((q) => {
      if (vectorOut) {
        const mine = N % TN === 0 ? '' : `n + ${4 * q}u >= first_n`;
        return [guarded(mine, `${at(i, q)} = c${i}_${q};`)];
      }
      return range(width).map((j) => {
        const mine = N % TN === 0 ? '' : `n + ${q * width + j}u >= first_n`;
        return guarded(mine, `${at(i, q, j)} = ${width === 1 ? `c${i}_${q}` : `c${i}_${q}[${j}]`};`);
      });
    });
    return `  ${guarded(M % TM === 0 ? '' : `m + ${i}u >= first_m`, statements.join(' '))}`;
  };

  const groupsM = Math.ceil(M / (TM * WY));
  const groupsY = Math.min(groupsM, MAX_GROUPS);
  const tail = K % unroll;
  const code = `${reader.functions}@compute @workgroup_size(${WX}, ${WY}) fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_id) lid: vec3<u32>) {
  let first_n = (wid.x * ${WX}u + lid.x) * ${TN}u;
  let first_m = ((wid.y + wid.z * ${groupsY}u) * ${WY}u + lid.y) * ${TM}u;
  if (first_n >= ${N}u || first_m >= ${M}u) { return; }
  let n = ${N % TN === 0 ? 'first_n' : `min(first_n, ${N - TN}u)`};
  let m = ${M % TM === 0 ? 'first_m' : `min(first_m, ${M - TM}u)`};
${rows.flatMap((i) => columns.map((q) => `  var c${i}_${q} = ${begin(i, q)};`)).join('\n')}
  for (var k = 0u; k < ${rolled(K - tail, 'lid.x')}; k += ${unroll}u) {
    ${block(unroll)}
  }
${tail ? `  {\n    let k = ${K - tail}u;\n    ${block(tail)}\n  }\n` : ''}${rows.map(storeRow).join('\n')}
}`;
  return {
    code,
    elements: {
      a: vectorA ? 'vec4<f32>' : 'f32',
      b: reader.element,
      out: vectorOut ? 'vec4<f32>' : 'f32',
    },
    workgroups: [Math.ceil(N / (TN * WX)), groupsY, Math.ceil(groupsM / groupsY)],
  };
}

const range = (count: number): number[] => Array.from({ length: count }, (_, i) => i);
const nextPower = (n: number): number => 2 ** Math.ceil(Math.log2(n));
const largestPower = (n: number): number => 2 ** Math.floor(Math.log2(n));
