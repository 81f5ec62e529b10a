/**
 * The matmul that runs everywhere, by register tiles: a thread owns TM x TN entries of `out` in named accumulators (never an
 * indexed local array, which compilers put into memory), goes through K four steps at a time, and reads each operand by
 * vec4 along whichever of its axes is contiguous. A tile at an edge is moved inwards, so that no load needs a bound; it
 * stores only what is its own.
 */
import { weightReader } from '../../graph/packing.ts';
import { rolled } from '../wgsl.ts';
import { beginOf, stridesOf, type MatmulCode, type MatmulWindow } from './kernel.ts';

/** What one thread computes and how threads are grouped. */
export interface MatmulTile {
  readonly TM: number;
  readonly TN: number;
  /** Threads of a workgroup along N and M. */
  readonly WX: number;
  readonly WY: number;
}

const MAX_GROUPS = 65535;

/** The tile of a thread where nothing is known of the device. */
export function safeTile(M: number, N: number): MatmulTile {
  const TM = largestPower(Math.min(M, 4));
  return tileOf(M, N, TM, largestPower(Math.min(N, TM === 4 ? 4 : 8)));
}

/** 64 threads, or as few as the product needs. */
export function tileOf(M: number, N: number, TM: number, TN: number): MatmulTile {
  const WX = Math.min(M <= 4 * TM ? 64 : 8, nextPower(Math.ceil(N / TN)));
  const WY = Math.min(64 / WX, nextPower(Math.ceil(M / TM)));
  return { TM, TN, WX, WY };
}

export function tiledCode(window: MatmulWindow, { TM, TN, WX, WY }: MatmulTile): MatmulCode {
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
        for (const q of range(TM / 4))
          lines.push(`let a${q}_${s} = a[((k + ${s}u) * ${strides.a}u + m) / 4u + ${q}u];`);
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
  const own = { array: 'out', stride: strides.out };
  /** Where the accumulators `q` of row i lie, or their entry j. */
  const at = (i: number, q: number, j?: number, { array, stride } = own): string =>
    j === undefined
      ? `${array}[((m + ${i}u) * ${stride}u + n) / 4u + ${q}u]`
      : `${array}[(m + ${i}u) * ${stride}u + n + ${q * width + j}u]`;
  const begin = (i: number, q: number): string => {
    if (!begins) return `${type}()`;
    const parts = range(width).map((j) => at(i, q, j, begins));
    return vectorOut ? at(i, q, undefined, begins) : `${type}(${parts.join(', ')})`;
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
