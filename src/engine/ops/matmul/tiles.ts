/**
 * The matmul that runs everywhere, by register tiles (register-tile.ts), one a thread. A tile at an edge is moved inwards, so
 * that no load needs a bound; it stores only what is its own.
 */
import { MAX_GROUPS, rolled } from '../wgsl.ts';
import type { MatmulCode, MatmulWindow } from './kernel.ts';
import { largestPower, registerTile } from './register-tile.ts';

/** What one thread computes and how threads are grouped. */
export interface MatmulTile {
  readonly TM: number;
  readonly TN: number;
  /** Threads of a workgroup along N and M. */
  readonly WX: number;
  readonly WY: number;
}

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

/** @param halves B is held as f16 and read as such (`shader-f16`) */
export function tiledCode(window: MatmulWindow, { TM, TN, WX, WY }: MatmulTile, halves = false): MatmulCode {
  const { M, N, K } = window;
  const tile = registerTile(window, { TM, TN }, halves);
  const { rows, columns, unroll, tail } = tile;
  const groupsM = Math.ceil(M / (TM * WY));
  const groupsY = Math.min(groupsM, MAX_GROUPS);
  const code = `${tile.functions}@compute @workgroup_size(${WX}, ${WY}) fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_id) lid: vec3<u32>) {
  let first_n = (wid.x * ${WX}u + lid.x) * ${TN}u;
  let first_m = ((wid.y + wid.z * ${groupsY}u) * ${WY}u + lid.y) * ${TM}u;
  if (first_n >= ${N}u || first_m >= ${M}u) { return; }
  ${tile.inwards}
${rows.flatMap((i) => columns.map((q) => `  var c${i}_${q} = ${tile.begin(`${i}u`, q)};`)).join('\n')}
  for (var k = 0u; k < ${rolled(K - tail, 'lid.x')}; k += ${unroll}u) {
    ${tile.steps(unroll)}
  }
${tail ? `  {\n    let k = ${K - tail}u;\n    ${tile.steps(tail)}\n  }\n` : ''}${rows.flatMap((i) => columns.map((q) => `  ${tile.store(`${i}u`, q, `c${i}_${q}`)}`)).join('\n')}
}`;
  return {
    code,
    elements: tile.elements,
    workgroups: [Math.ceil(N / (TN * WX)), groupsY, Math.ceil(groupsM / groupsY)],
    halves,
  };
}

const nextPower = (n: number): number => 2 ** Math.ceil(Math.log2(n));
