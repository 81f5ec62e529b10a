/**
 * The matmul for adapters that compute on the CPU (llvmpipe: subgroups of 8; SwiftShader: of 4). There a load costs one scalar
 * load with its bounds check a lane, some forty times a multiply-add of all lanes, so what counts is loads a multiply-add.
 *
 * The lanes of a subgroup own the same rows and different columns. Each lane loads one of the rows' entries of A, and
 * `subgroupBroadcast` hands them round: R = lanes·RA rows for RA loads. With TN columns a lane that is (RA + TN) loads for
 * R·TN multiply-adds: 1/8 at 16x2, where a 4x4 register tile needs 1/2. A GPU loads a vector at once and would only lose
 * occupancy here; it gets the register tiles.
 */
import { isPacked, weightReader } from '../../graph/packing.ts';
import type { KernelLimits } from '../../graph/types.ts';
import { MAX_GROUPS, rolled } from '../wgsl.ts';
import { beginOf, stridesOf, type MatmulCode, type MatmulWindow } from './kernel.ts';

/** Subgroups of these sizes belong to adapters that compute on the CPU. */
const CPU_LANES = [4, 8];

export function isCpu(subgroupSize: number | undefined): boolean {
  return subgroupSize !== undefined && CPU_LANES.includes(subgroupSize);
}

export interface LanesTile {
  /** Lanes of a subgroup. */
  readonly lanes: number;
  /** Entries of A a lane loads: the tile has lanes·RA rows. */
  readonly RA: number;
  /** Columns a lane owns. */
  readonly TN: number;
  /** Threads of a workgroup. */
  readonly threads: number;
}

export type LanesBlock = Pick<LanesTile, 'RA' | 'TN'>;

/** As many as registers hold; SwiftShader's compiler is quick and allots them poorly. */
export function usualBlock(limits: Pick<KernelLimits, 'architecture' | 'subgroupSize'> | undefined): LanesBlock {
  if (limits?.subgroupSize === 8) return { RA: 2, TN: 2 };
  return { RA: limits?.architecture === 'swiftshader' ? 2 : 4, TN: 4 };
}

/**
 * undefined where this variant is not for the device or the shape.
 * @param most rows a lane loads and columns it owns, at most
 */
export function chooseLanes(M: number, N: number, lanes: number | undefined, most: LanesBlock): LanesTile | undefined {
  if (lanes === undefined || !isCpu(lanes) || M < lanes) return undefined;
  const RA = Math.min(most.RA, largestPower(M / lanes));
  // no lane without a column
  const TN = Math.max(1, Math.min(most.TN, largestPower(N / lanes)));
  const busy = Math.ceil(Math.ceil(N / TN) / lanes) * lanes;
  const threads = [64, 32, 16, 8, 4].find((count) => busy % count === 0)!;
  return { lanes, RA, TN, threads };
}

export function lanesCode(window: MatmulWindow, { lanes, RA, TN, threads }: LanesTile): MatmulCode {
  const { b: weight, M, N, K, transA = false, transB = false, accumulate = false } = window;
  const strides = stridesOf(window);
  const R = lanes * RA;
  const vectorA = !transA && K % 4 === 0 && strides.a % 4 === 0;
  const vectorB = transB && vectorA;
  // a lane's rows lie side by side where A's columns are contiguous, so that it loads them together
  const together = transA && (RA === 2 || RA === 4) && M % RA === 0 && strides.a % RA === 0;
  const rowOf = (r: number, lane: number): number => (together ? lane * RA + r : r * lanes + lane);
  const steps = vectorA || K % 4 === 0 ? 4 : 1;
  // columns of a lane lie side by side
  const wide = (TN === 2 || TN === 4) && N % TN === 0 && strides.out % TN === 0;
  const pair = wide ? `vec${TN}<f32>` : 'f32';
  const width = vectorB ? 4 : !transB && wide ? TN : 1;
  const reader = weightReader('b', weight.type.dtype, width);

  // SwiftShader's compiler moves nothing out of a loop: where a row or column begins is said before it, and inside it one
  // variable a matrix goes on, counted in elements of the arrays
  const unitA = vectorA ? 4 : together ? RA : 1;
  const packed = isPacked(weight.type.dtype);
  const unitB = packed ? 1 : width;
  const stepA = (transA ? steps * strides.a : steps) / unitA;
  const stepB = (transB ? steps : steps * N) / unitB;
  const begins: string[] = ['var at_a = 0u;', 'var at_b = 0u;'];
  const lines: string[] = [];
  const a = (r: number, s: number): string => (vectorA ? `a_0_${r}[${s}]` : together ? `a_${s}[${r}]` : `a_${s}_${r}`);
  // what each share of A's rows is loaded by, in all steps; if a lane's rows lie side by side one load brings them all
  const loads: string[][] = range(RA).map(() => []);
  if (together) {
    begins.push(`let a_begin = m / ${RA}u + lane;`);
    for (const s of range(steps)) loads[0]!.push(`let a_${s} = a[a_begin + at_a + ${(s * strides.a) / RA}u];`);
  } else
    for (const r of range(RA)) {
      const row = `(m + ${r * lanes}u + lane)`;
      begins.push(`let a_begin${r} = ${transA ? row : `${row} * ${strides.a / unitA}u`};`);
      for (const s of range(vectorA ? 1 : steps))
        loads[r]!.push(`let a_${s}_${r} = a[a_begin${r} + at_a + ${transA ? s * strides.a : s}u];`);
    }
  const b = (j: number, s: number): string =>
    vectorB ? `bs_0_${j}[${s}]` : width > 1 ? `bs_${s}[${j}]` : `bs_${s}_${j}`;
  const read = packed ? { 1: reader.one, 2: reader.two, 4: reader.four }[width] : (at: string) => `b[${at}]`;
  if (!transB && wide) {
    begins.push(`let b_begin = n${unitB > 1 ? ` / ${unitB}u` : ''};`);
    for (const s of range(steps)) lines.push(`let bs_${s} = ${read(`b_begin + at_b + ${(s * N) / unitB}u`)};`);
  } else
    for (const j of range(TN)) {
      begins.push(`let b_begin${j} = ${transB ? `(n + ${j}u) * ${K / unitB}u` : `n + ${j}u`};`);
      for (const s of range(vectorB ? 1 : steps))
        lines.push(`let bs_${s}_${j} = ${read(`b_begin${j} + at_b + ${transB ? s : s * N}u`)};`);
    }
  // A load is a branch to llvmpipe, across which its compiler moves nothing. With every load first it made all products of a
  // round before the first sum, and kept them on the stack.
  for (const r of range(RA)) {
    lines.push(...loads[r]!);
    for (const i of range(lanes))
      for (const s of range(steps)) {
        const x = `x${s}_${rowOf(r, i)}`;
        lines.push(`let ${x} = subgroupBroadcast(${a(r, s)}, ${i}u);`);
        for (const j of range(TN)) {
          const c = `c${rowOf(r, i)}_${j}`;
          lines.push(`${c} = fma(${x}, ${b(j, s)}, ${c});`);
        }
      }
  }

  const starts = beginOf(window);
  const row = (i: number, stride = strides.out): string => `(m + ${i}u) * ${stride}u + n`;
  // sums that go on have one owner each; else, where tiles overlap at an edge, both store the same numbers
  const guarded = (own: string, statement: string): string =>
    accumulate && own !== '' ? `if (${own}) { ${statement} }` : statement;
  const begin = (i: number): string[] => {
    if (!starts) return range(TN).map((j) => `var c${i}_${j} = 0.0;`);
    const { array, stride } = starts;
    if (!wide) return range(TN).map((j) => `var c${i}_${j} = ${array}[${row(i, stride)} + ${j}u];`);
    return [
      `let o${i} = ${array}[(${row(i, stride)}) / ${TN}u];`,
      ...range(TN).map((j) => `var c${i}_${j} = o${i}[${j}];`),
    ];
  };
  const stores = range(R).map((i) => {
    const sums = range(TN).map((j) => `c${i}_${j}`);
    const statements = wide
      ? [`out[(${row(i)}) / ${TN}u] = ${pair}(${sums.join(', ')});`]
      : sums.map((sum, j) => guarded(N % TN === 0 ? '' : `n + ${j}u >= first_n`, `out[${row(i)} + ${j}u] = ${sum};`));
    return `    ${guarded(M % R === 0 ? '' : `m + ${i}u >= first_m`, statements.join(' '))}`;
  });

  const groupsM = Math.ceil(M / R);
  // down the rows first: the workgroups that run together share a panel of B (its columns are the wider side of a tile)
  const groupsX = Math.min(groupsM, MAX_GROUPS);
  const columns = Math.ceil(N / TN);
  const code = `${reader.functions}@compute @workgroup_size(${threads}) fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32, @builtin(subgroup_invocation_id) lane: u32) {
  let first_n = (wid.y * ${threads}u + lid) * ${TN}u;
  let first_m = (wid.x + wid.z * ${groupsX}u) * ${R}u;
  if (first_m >= ${M}u) { return; }
  let n = min(first_n, ${N - TN}u);
  let m = ${M % R === 0 ? 'first_m' : `min(first_m, ${M - R}u)`};
${range(R)
  .map((i) => `  ${begin(i).join(' ')}`)
  .join('\n')}
  ${begins.join('\n  ')}
  for (var k = 0u; k < ${rolled(K, 'wid.x')}; k += ${steps}u) {
    ${lines.join('\n    ')}
    at_a += ${stepA}u;
    at_b += ${stepB}u;
  }
  if (first_n < ${N}u) {
${stores.join('\n')}
  }
}`;
  return {
    code,
    elements: {
      a: vectorA ? 'vec4<f32>' : together ? `vec${RA}<f32>` : 'f32',
      b: reader.element,
      out: pair,
    },
    workgroups: [groupsX, Math.ceil(columns / threads), Math.ceil(groupsM / groupsX)],
    subgroups: true,
  };
}

const range = (count: number): number[] => Array.from({ length: count }, (_, i) => i);
const largestPower = (n: number): number => (n < 1 ? 1 : 2 ** Math.floor(Math.log2(n)));
