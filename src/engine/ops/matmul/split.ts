/**
 * The matmul of few outputs and a long sum, on a GPU ("split-K"): the gradient of a LoRA pair, [8, 576] over all tokens of a
 * batch, or a pair's narrow product. By register tiles alone some hundred threads would walk all of K one after the other, and
 * a GPU has thousands: what such a product takes is the time of one thread's loads, not the device's rate.
 *
 * K is cut into eight chunks; each is summed by itself, in ascending order, and the chunks' sums are added in order. A
 * workgroup of 64 has 1, 4 or 8 threads for a tile, each with its share of the chunks, whose sums meet in workgroup memory
 * once (4 to 8 KB). How many threads share a tile changes no sum, so the tuner may choose; that K is cut does, so it
 * is cut for every product of such a shape and no other (as few-rows.ts).
 */
import { rolled } from '../wgsl.ts';
import type { MatmulCode, MatmulWindow } from './kernel.ts';
import { largestPower, registerTile } from './register-tile.ts';

export interface SplitTile {
  readonly TM: number;
  readonly TN: number;
  /** Threads that share a tile: a divisor of `CHUNKS`. */
  readonly ways: number;
}

const CHUNKS = 8;
const THREADS = 64;
/** At 4 x 4 a thread that is 4,096 threads: a large GPU runs more at once. */
const MOST_OUTPUTS = 65_536;
/** A chunk of 64 steps is sixteen rounds of loads; below, the barrier costs more than is won. */
const LEAST_K = 512;

/** Whether the shape is one of few outputs and a long sum. Sums that go on from another window's stay one chain. */
export function isSplit({ M, N, K, accumulate }: MatmulWindow): boolean {
  return M * N <= MOST_OUTPUTS && K >= LEAST_K && !accumulate;
}

/** No tile larger than the product. */
export function splitTile(M: number, N: number, TM: number, TN: number, ways: number): SplitTile {
  return { TM: Math.min(TM, largestPower(M)), TN: Math.min(TN, largestPower(N)), ways };
}

export function splitCode(window: MatmulWindow, { TM, TN, ways }: SplitTile): MatmulCode {
  const { M, N, K } = window;
  const tile = registerTile(window, { TM, TN });
  const { type, rows, columns, unroll, tail } = tile;
  const each = rows.flatMap((i) => columns.map((q) => ({ i, q, sum: `c${i}_${q}`, total: `t${i}_${q}` })));
  const perGroup = THREADS / ways;
  const across = Math.ceil(N / TN);
  const tiles = across * Math.ceil(M / TM);
  /** Steps of a chunk: a multiple of four, so that vec4 along K stay whole. */
  const length = 4 * Math.ceil(K / (4 * CHUNKS));

  /** Which tile; all threads stay until the barrier, so those past the last one work on it and store nothing. */
  const place = `let t = wid.x * ${perGroup}u + mine;
  let first_m = (min(t, ${tiles - 1}u) / ${across}u) * ${TM}u;
  let first_n = (min(t, ${tiles - 1}u) % ${across}u) * ${TN}u;
  ${tile.inwards}`;
  const at = (which: string, entry: string): string =>
    `partial[(${which} * ${each.length}u + ${entry}) * ${perGroup}u + mine]`;
  const lines = (make: (entry: (typeof each)[number], at: number) => string): string => each.map(make).join('\n  ');
  const added = ways === 1;

  /** What a thread does for each of its chunks. */
  const sums = `for (var turn = 0u; turn < ${rolled(CHUNKS / ways, 'wid.x')}; turn++) {
  let chunk = way * ${CHUNKS / ways}u + turn;
  let start = chunk * ${length}u;
  let end = min(start + ${length}u, ${K - tail}u);
  ${lines(({ sum }) => `var ${sum} = ${type}();`)}
  for (var k = start; k < end; k += ${unroll}u) {
    ${tile.steps(unroll)}
  }
${tail ? `  if (chunk == ${CHUNKS - 1}u) {\n    let k = ${K - tail}u;\n    ${tile.steps(tail)}\n  }\n` : ''}  ${lines(
    ({ sum, total }, entry) => (added ? `${total} += ${sum};` : `${at('chunk', `${entry}u`)} = ${sum};`),
  )}
  }`;
  const alone = `${lines(({ i, q, total }) => `var ${total} = ${tile.begin(`${i}u`, q)};`)}
  ${sums}
  if (t < ${tiles}u) {
  ${lines(({ i, q, total }) => tile.store(`${i}u`, q, total))}
  }`;
  const together = `${sums}
  workgroupBarrier();
  if (t < ${tiles}u) {
  for (var entry = way; entry < ${each.length}u; entry += ${ways}u) {
    let i = entry / ${columns.length}u;
${columns
  .map(
    (q) => `    if (entry % ${columns.length}u == ${q}u) {
      var total = ${tile.begin('i', q)};
      for (var chunk = 0u; chunk < ${rolled(CHUNKS, 'wid.x')}; chunk++) { total += ${at('chunk', 'entry')}; }
      ${tile.store('i', q, 'total')}
    }`,
  )
  .join('\n')}
  }
  }`;
  const code = `${tile.functions}${added ? '' : `var<workgroup> partial: array<${type}, ${CHUNKS * each.length * perGroup}>;\n`}@compute @workgroup_size(${THREADS}) fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
  let mine = lid % ${perGroup}u;
  let way = lid / ${perGroup}u;
  ${place}
  ${added ? alone : together}
}`;
  return { code, elements: tile.elements, workgroups: [Math.ceil(tiles / perGroup), 1, 1] };
}
