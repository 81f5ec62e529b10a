/**
 * The matmul by handing entries of A round a subgroup, for GPUs whose subgroups have any size, which only the kernel learns
 * when it runs (Intel's vary from shader to shader): 64 threads own the same TM rows and TN columns each, neighbours beside
 * each other. A lane loads one step of K of its rows, so that a subgroup reads as many neighbouring numbers as it has lanes,
 * once, and each step's entries come from the lane that has them.
 *
 * At 8x4 a step costs a lane 8 shuffles and one vec4 of B for 32 multiply-adds, no barrier and no workgroup memory; 44
 * registers. A shuffle is cheap where it is a move between registers (Intel) and goes through the unit of workgroup memory
 * elsewhere, so the tuner decides. `subgroupBroadcast` itself would do for constant lanes only (WGSL §17.12). CPU adapters
 * have lanes.ts, which knows the size of theirs.
 */
import { MAX_GROUPS } from '../wgsl.ts';
import { stridesOf, type MatmulCode, type MatmulWindow } from './kernel.ts';
import { registerTile } from './register-tile.ts';

export interface BroadcastTile {
  readonly TM: number;
  readonly TN: number;
}

const THREADS = 64;

export function suitsBroadcast({ M, N }: MatmulWindow, { TM, TN }: BroadcastTile): boolean {
  return M >= TM && N >= (THREADS * TN) / 2;
}

export function broadcastCode(window: MatmulWindow, { TM, TN }: BroadcastTile): MatmulCode {
  const { M, N, K, transA = false } = window;
  const strides = stridesOf(window);
  const tile = registerTile(window, { TM, TN });
  const { rows, columns, unroll, tail } = tile;
  const across = Math.ceil(N / TN);
  const groupsM = Math.ceil(M / TM);
  const groupsY = Math.min(groupsM, MAX_GROUPS);
  const sums = rows.flatMap((i) => columns.map((q) => ({ i, q, name: `c${i}_${q}` })));
  /** What a lane loads of the steps from `first` on. */
  const own = (first: string): string => {
    const at = (i: number): string =>
      transA ? `mine * ${strides.a}u + m + ${i}u` : `(m + ${i}u) * ${strides.a}u + mine`;
    return [`let mine = min(${first} + lane, ${K - 1}u);`, ...rows.map((i) => `let own${i} = a[${at(i)}];`)].join(
      '\n    ',
    );
  };
  const code = `${tile.functions}@compute @workgroup_size(${THREADS}) fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32, @builtin(subgroup_invocation_id) lane: u32, @builtin(subgroup_size) subgroup_size: u32) {
  let column = wid.x * ${THREADS}u + lid;
  let first_n = min(column, ${across - 1}u) * ${TN}u;
  let first_m = (wid.y + wid.z * ${groupsY}u) * ${TM}u;
  if (first_m >= ${M}u) { return; }
  // a subgroup larger than the workgroup has lanes that load nothing
  let size = min(subgroup_size, ${THREADS}u);
  ${tile.inwards}
${sums.map(({ i, q, name }) => `  var ${name} = ${tile.begin(`${i}u`, q)};`).join('\n')}
  for (var begin = 0u; begin < ${K - tail}u; begin += size) {
    ${own('begin')}
    let count = min(size, ${K - tail}u - begin);
    for (var s = 0u; s < count; s += ${unroll}u) {
    let k = begin + s;
    ${tile.steps(unroll, (i, t) => `subgroupShuffle(own${i}, s + ${t}u)`)}
    }
  }
${tail ? `  {\n    let k = ${K - tail}u;\n    ${own('k')}\n    ${tile.steps(tail, (i, t) => `subgroupShuffle(own${i}, ${t}u)`)}\n  }\n` : ''}  if (column < ${across}u) {
${sums.map(({ i, q, name }) => `    ${tile.store(`${i}u`, q, name)}`).join('\n')}
  }
}`;
  return {
    code,
    elements: { ...tile.elements, a: 'f32' },
    workgroups: [Math.ceil(across / THREADS), groupsY, Math.ceil(groupsM / groupsY)],
    subgroups: true,
  };
}
