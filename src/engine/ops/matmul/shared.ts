/**
 * The matmul by workgroup memory, for GPUs: a workgroup owns BM x BN entries of `out` and goes through K by BK. Its threads
 * bring a panel of A and one of B into workgroup memory, each in blocks of 4 x 4 that a thread loads by vec4 along whichever
 * axis is contiguous and turns where needed (a vec4 must have one writer: writing a component may rewrite its neighbours,
 * WGSL §14.4); then each thread takes TM + TN entries a step for TM·TN multiply-adds.
 *
 * At 64x64 by 8x8: 64 threads, 64 accumulators, 8 KB; every number of A is read N/64 times from memory, where a 4x4 register
 * tile reads it N/4 times and leaves the rest to caches. Two barriers for 16 steps. CPU adapters lose by barriers and are
 * not offered it.
 */
import { weightReader } from '../../graph/packing.ts';
import { MAX_GROUPS, rolled } from '../wgsl.ts';
import { beginOf, stridesOf, type MatmulCode, type MatmulWindow } from './kernel.ts';

export interface SharedTile {
  /** Entries of `out` of a workgroup, and steps of K between two barriers; multiples of 4. */
  readonly BM: number;
  readonly BN: number;
  readonly BK: number;
  /** Entries of `out` of a thread; multiples of 4. */
  readonly TM: number;
  readonly TN: number;
}

/** Blocks of four must not cross an edge, and a tile larger than the product would only idle. */
export function suitsShared(window: MatmulWindow, { BM, BN, BK }: SharedTile): boolean {
  const { M, N, K, transA, transB, limits } = window;
  const strides = stridesOf(window);
  const evenRows = strides.a % 4 === 0 && strides.out % 4 === 0;
  const even = evenRows && (transA ? M : K) % 4 === 0 && (transB ? K : N) % 4 === 0 && N % 4 === 0;
  const bytes = 4 * BK * (BM + BN);
  return even && M >= BM / 2 && N >= BN / 2 && K >= BK && bytes <= (limits?.maxComputeWorkgroupStorageSize ?? 16384);
}

/** @param halves B is held as f16, read as such (`shader-f16`), and lies so in its panel: half the workgroup memory */
export function sharedCode(window: MatmulWindow, { BM, BN, BK, TM, TN }: SharedTile, halves = false): MatmulCode {
  const { b: weight, M, N, K, transA = false, transB = false } = window;
  const strides = stridesOf(window);
  const [acrossN, acrossM] = [BN / TN, BM / TM];
  const threads = acrossN * acrossM;
  const reader = weightReader('b', weight.type.dtype, 4, halves);
  const [elementB, loadB] = halves
    ? ['vec4<f16>', (at: string): string => `b[(${at}) / 4u]`]
    : ['vec4<f32>', reader.four];
  const groupsM = Math.ceil(M / BM);
  const groupsY = Math.min(groupsM, MAX_GROUPS);

  /**
   * Block `block` of a panel of BK steps by `across` entries into `panel`[step][entry / 4]. `contiguous` says along what the
   * operand lies in memory: its entries (a vec4 is what the panel holds) or its steps (four vec4 are turned).
   */
  const bring = (
    panel: 'panel_a' | 'panel_b',
    across: number,
    first: string,
    size: number,
    stride: number,
    contiguous: 'entries' | 'steps',
    load: (at: string) => string,
    type = 'vec4<f32>',
  ): string => {
    const columns = across / 4;
    const at = (i: number): string =>
      contiguous === 'entries'
        ? `(k + step + ${i}u) * ${stride}u + entry`
        : `min(entry + ${i}u, ${size - 1}u) * ${stride}u + k + step`;
    const loads = range(4).map((i) => `      let v${i} = ${load(at(i))};`);
    const inside = range(4).map((i) => (contiguous === 'entries' ? `k + step + ${i}u < ${K}u` : `k + step < ${K}u`));
    const puts = range(4).map((s) => {
      const value = contiguous === 'entries' ? `v${s}` : `${type}(v0[${s}], v1[${s}], v2[${s}], v3[${s}])`;
      // steps past the end add nothing; K is a multiple of 4 where steps are contiguous, so such a block is whole
      const kept = K % BK === 0 ? value : `select(${type}(), ${value}, ${inside[s]})`;
      return `      ${panel}[(step + ${s}u) * ${columns}u + column] = ${kept};`;
    });
    const edge = contiguous === 'entries' ? `min(${first} + column * 4u, ${size - 4}u)` : `${first} + column * 4u`;
    return `    for (var block = lid; block < ${(BK * across) / 16}u; block += ${threads}u) {
      let column = block % ${columns}u;
      let step = (block / ${columns}u) * 4u;
      let entry = ${edge};
${loads.join('\n')}
${puts.join('\n')}
    }`;
  };

  const [rows, columns] = [range(TM), range(TN / 4)];
  const begins = beginOf(window);
  const at = (i: number, q: number, { array, stride } = { array: 'out', stride: strides.out }): string =>
    `${array}[((m + ${i}u) * ${stride}u + n) / 4u + ${q}u]`;
  const inside = (i: number, q: number, statement: string): string =>
    `if (m + ${i}u < ${M}u && n + ${4 * q}u < ${N}u) { ${statement} }`;
  const begin = (i: number, q: number): string =>
    `var c${i}_${q} = vec4<f32>();${begins ? ` ${inside(i, q, `c${i}_${q} = ${at(i, q, begins)};`)}` : ''}`;
  const code = `${reader.functions}var<workgroup> panel_a: array<vec4<f32>, ${(BK * BM) / 4}>;
var<workgroup> panel_b: array<${elementB}, ${(BK * BN) / 4}>;
@compute @workgroup_size(${threads}) fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
  let first_n = wid.x * ${BN}u;
  let first_m = (wid.y + wid.z * ${groupsY}u) * ${BM}u;
  if (first_m >= ${M}u) { return; }
  let mine_m = (lid / ${acrossN}u) * ${TM}u;
  let mine_n = (lid % ${acrossN}u) * ${TN}u;
  let m = first_m + mine_m;
  let n = first_n + mine_n;
${rows.flatMap((i) => columns.map((q) => `  ${begin(i, q)}`)).join('\n')}
  for (var k = 0u; k < ${rolled(K, 'wid.x')}; k += ${BK}u) {
${bring('panel_a', BM, 'first_m', M, strides.a, transA ? 'entries' : 'steps', (at) => `a[(${at}) / 4u]`)}
${bring('panel_b', BN, 'first_n', N, transB ? K : N, transB ? 'steps' : 'entries', loadB, elementB)}
    workgroupBarrier();
    for (var s = 0u; s < ${BK}u; s++) {
${range(TM / 4)
  .map((p) => `      let a${p} = panel_a[s * ${BM / 4}u + mine_m / 4u + ${p}u];`)
  .join('\n')}
${columns.map((q) => `      let b${q} = vec4<f32>(panel_b[s * ${BN / 4}u + mine_n / 4u + ${q}u]);`).join('\n')}
${rows
  .flatMap((i) => columns.map((q) => `      c${i}_${q} = fma(vec4<f32>(a${i >> 2}[${i & 3}]), b${q}, c${i}_${q});`))
  .join('\n')}
    }
    workgroupBarrier();
  }
${rows.flatMap((i) => columns.map((q) => `  ${inside(i, q, `${at(i, q)} = c${i}_${q};`)}`)).join('\n')}
}`;
  return {
    code,
    elements: { a: 'vec4<f32>', b: reader.element, out: 'vec4<f32>' },
    workgroups: [Math.ceil(N / BN), groupsY, Math.ceil(groupsM / groupsY)],
    halves,
  };
}

const range = (count: number): number[] => Array.from({ length: count }, (_, i) => i);
