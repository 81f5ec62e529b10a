/**
 * The matmul of decoding on a GPU: a few rows of A against every row of a weight stored [N, K]. It is bound by reading the
 * weight once, so neighbouring threads must read neighbouring bytes, which register tiles do not (there a thread walks along
 * rows of its own, K floats apart).
 *
 * A workgroup of 64 owns 8 rows of the weight: 32 threads stride along K by vec4 (512 bytes at once), two such halves own four
 * rows each. Per vec4 of K a thread loads four of the weight and M of A, for 16 · M multiply-adds; partial sums meet in
 * workgroup memory once, at the end (1 to 4 KB). 20 + 4·M registers leave a GPU full occupancy.
 */
import { weightReader } from '../../graph/packing.ts';
import { MAX_GROUPS, rolled } from '../wgsl.ts';
import { beginOf, stridesOf, type MatmulCode, type MatmulWindow } from './kernel.ts';

const MOST_ROWS = 4;
const ALONG_K = 32;
const ROWS_A_THREAD = 4;
const ROWS_A_GROUP = 2 * ROWS_A_THREAD;

/** Whether the shape is one that reading the weight bounds. Not for adapters that compute on the CPU: there loads cost, not bytes. */
export function isFewRows(window: MatmulWindow): boolean {
  const { M, N, K, transA, transB, accumulate } = window;
  return (
    stridesOf(window).a === K && M <= MOST_ROWS && N >= 64 && K % 4 === 0 && !transA && transB === true && !accumulate
  );
}

export function fewRowsCode(window: MatmulWindow): MatmulCode {
  const { b: weight, M, N, K } = window;
  const vectors = K / 4;
  const reader = weightReader('b', weight.type.dtype, 4);
  const rows = range(ROWS_A_THREAD);
  const sums = range(M).flatMap((i) => rows.map((j) => ({ i, j, name: `c${i}_${j}` })));
  const groups = Math.ceil(N / ROWS_A_GROUP);
  const groupsX = Math.min(groups, MAX_GROUPS);
  const count = M * ROWS_A_GROUP;
  const begins = beginOf(window);
  const row = `(lid / ${ROWS_A_GROUP}u)`;
  const code = `${reader.functions}var<workgroup> partial: array<f32, ${count * ALONG_K}>;
@compute @workgroup_size(64) fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
  let first = (wid.x + wid.y * ${groupsX}u) * ${ROWS_A_GROUP}u;
  let part = lid % ${ALONG_K}u;
  let mine = (lid / ${ALONG_K}u) * ${ROWS_A_THREAD}u;
${rows.map((j) => `  let row${j} = min(first + mine + ${j}u, ${N - 1}u) * ${vectors}u;`).join('\n')}
${sums.map(({ name }) => `  var ${name} = 0.0;`).join('\n')}
  for (var k = part; k < ${rolled(vectors, 'lid')}; k += ${ALONG_K}u) {
${rows.map((j) => `    let b${j} = ${reader.four(`(row${j} + k) * 4u`)};`).join('\n')}
${range(M)
  .map((i) => `    let a${i} = a[${i * vectors}u + k];`)
  .join('\n')}
${sums.map(({ i, j, name }) => `    ${name} += dot(a${i}, b${j});`).join('\n')}
  }
${sums.map(({ i, j, name }) => `  partial[(${i * ROWS_A_GROUP + j}u + mine) * ${ALONG_K}u + part] = ${name};`).join('\n')}
  workgroupBarrier();
  if (lid < ${count}u) {
    let n = first + lid % ${ROWS_A_GROUP}u;
    var sum = 0.0;
    for (var i = 0u; i < ${rolled(ALONG_K, 'lid')}; i++) { sum += partial[lid * ${ALONG_K}u + i]; }
    if (n < ${N}u) { out[${row} * ${stridesOf(window).out}u + n] = sum${begins ? ` + ${begins.array}[${row} * ${begins.stride}u + n]` : ''}; }
  }
}`;
  return {
    code,
    elements: { a: 'vec4<f32>', b: reader.element, out: 'f32' },
    workgroups: [groupsX, Math.ceil(groups / groupsX), 1],
  };
}

const range = (count: number): number[] => Array.from({ length: count }, (_, i) => i);
