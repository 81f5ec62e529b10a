/**
 * What one thread of a matmul does: it owns TM x TN entries of `out` in named accumulators (never an indexed local array, which
 * compilers put into memory), goes through K four steps at a time, and reads each operand by vec4 along whichever of its
 * axes is contiguous. Kernels that use it declare `m` and `n`, its first row and column, and `k`.
 */
import { weightReader } from '../../graph/packing.ts';
import { beginOf, stridesOf, type MatmulCode, type MatmulWindow } from './kernel.ts';

export interface RegisterTile {
  /** To put in front of the kernel. */
  readonly functions: string;
  readonly elements: MatmulCode['elements'];
  /** WGSL type of an accumulator, which spans some columns of a row: c{row}_{column}. */
  readonly type: string;
  readonly rows: readonly number[];
  readonly columns: readonly number[];
  /** Steps of K at a time, and those that are left at its end. */
  readonly unroll: number;
  readonly tail: number;
  /**
   * Statements for steps k .. k + count - 1: what is loaded, and added to the accumulators.
   * @param given the entry of A in row i of the tile at a step, where the kernel has it already
   */
  steps(count: number, given?: (i: number, step: number) => string): string;
  /** `m` and `n` from `first_m` and `first_n`: a tile at an edge is moved inwards, so that no load needs a bound. */
  readonly inwards: string;
  /** What the sum of an accumulator begins with. @param i row of the tile, an expression */
  begin(i: string, q: number): string;
  /** The statement that stores an accumulator, or what of it this tile owns. */
  store(i: string, q: number, value: string): string;
}

/** @param halves B is held as f16 and read as such (`shader-f16`) */
export function registerTile(
  window: MatmulWindow,
  { TM, TN }: { readonly TM: number; readonly TN: number },
  halves = false,
): RegisterTile {
  const { b: weight, M, N, K, transA = false, transB = false } = window;
  const strides = stridesOf(window);
  const begins = beginOf(window);
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
  const reader = weightReader('b', weight.type.dtype, vectorB ? 4 : 1, halves);

  const steps: RegisterTile['steps'] = (count, given) => {
    const lines: string[] = [];
    // a(i, s) and b(j, s) are expressions for entries of step s once the loads are written
    let a = (i: number, s: number): string => `a${i}_${s}`;
    let b = (j: number, s: number): string => `b${j}_${s}`;
    if (given) a = given;
    else if (vectorA && !transA) {
      rows.forEach((i) => lines.push(`let a${i} = a[((m + ${i}u) * ${strides.a}u + k) / 4u];`));
      a = (i, s) => `a${i}[${s}]`;
    } else if (vectorA) {
      for (const s of range(count))
        for (const q of range(TM / 4))
          lines.push(`let a${q}_${s} = a[((k + ${s}u) * ${strides.a}u + m) / 4u + ${q}u];`);
      a = (i, s) => `a${i >> 2}_${s}[${i & 3}]`;
    } else {
      for (const s of range(count))
        for (const i of rows) {
          const at = transA ? `(k + ${s}u) * ${strides.a}u + m + ${i}u` : `(m + ${i}u) * ${strides.a}u + k + ${s}u`;
          lines.push(`let a${i}_${s} = a[${at}];`);
        }
    }
    if (vectorB && transB) {
      range(TN).forEach((j) => lines.push(`let b${j} = ${reader.four(`(n + ${j}u) * ${K}u + k`)};`));
      b = (j, s) => `b${j}[${s}]`;
    } else if (vectorB) {
      for (const s of range(count))
        for (const q of columns) lines.push(`let b${q}_${s} = ${reader.four(`(k + ${s}u) * ${N}u + n + ${4 * q}u`)};`);
    } else {
      for (const s of range(count))
        for (const j of range(TN)) {
          const at = transB ? `(n + ${j}u) * ${K}u + k + ${s}u` : `(k + ${s}u) * ${N}u + n + ${j}u`;
          lines.push(`let b${j}_${s} = ${reader.one(at)};`);
        }
    }
    for (const s of range(count))
      for (const q of columns) {
        const parts = range(width).map((j) => b(q * width + j, s));
        const vector = vectorB && !transB ? `b${q}_${s}` : width === 1 ? parts[0]! : `${type}(${parts.join(', ')})`;
        lines.push(`let v${q}_${s} = ${vector};`);
        for (const i of rows) lines.push(`c${i}_${q} = fma(${type}(${a(i, s)}), v${q}_${s}, c${i}_${q});`);
      }
    return lines.join('\n    ');
  };

  const guarded = (conditions: readonly string[], statement: string): string => {
    const known = conditions.filter((condition) => condition !== '');
    return known.length === 0 ? statement : `if (${known.join(' && ')}) { ${statement} }`;
  };
  const own = { array: 'out', stride: strides.out };
  /** Where an accumulator lies, or its entry j. */
  const at = (i: string, q: number, j?: number, { array, stride } = own): string =>
    j === undefined
      ? `${array}[((m + ${i}) * ${stride}u + n) / 4u + ${q}u]`
      : `${array}[(m + ${i}) * ${stride}u + n + ${q * width + j}u]`;

  return {
    functions: reader.functions,
    elements: {
      a: vectorA ? 'vec4<f32>' : 'f32',
      b: reader.element,
      out: vectorOut ? 'vec4<f32>' : 'f32',
    },
    type,
    rows,
    columns,
    unroll,
    tail: K % unroll,
    steps,
    inwards: `let n = ${N % TN === 0 ? 'first_n' : `min(first_n, ${N - TN}u)`};
  let m = ${M % TM === 0 ? 'first_m' : `min(first_m, ${M - TM}u)`};`,
    begin(i, q) {
      if (!begins) return `${type}()`;
      const parts = range(width).map((j) => at(i, q, j, begins));
      return vectorOut ? at(i, q, undefined, begins) : `${type}(${parts.join(', ')})`;
    },
    store(i, q, value) {
      const row = M % TM === 0 ? '' : `m + ${i} >= first_m`;
      const column = (j: number): string => (N % TN === 0 ? '' : `n + ${q * width + j}u >= first_n`);
      if (vectorOut) return guarded([row, column(0)], `${at(i, q)} = ${value};`);
      const entries = range(width).map((j) => {
        const entry = width === 1 ? value : `${value}[${j}]`;
        return guarded([column(j)], `${at(i, q, j)} = ${entry};`);
      });
      return guarded([row], entries.join(' '));
    },
  };
}

export const largestPower = (n: number): number => 2 ** Math.floor(Math.log2(n));
const range = (count: number): number[] => Array.from({ length: count }, (_, i) => i);
