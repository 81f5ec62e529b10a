/**
 * What a teacher's cache made by sampling keeps of a row of logits z = hidden Wᵀ (+ b): for each point of the cumulative
 * distribution of the proposal (draw.ts) the token that it falls on, and log Σ exp(z / T) over the whole vocabulary at each
 * temperature. Chunk by chunk: [tokens × vocabulary] never exists.
 *
 * The threads of a row own runs of the vocabulary. They sum the shares of their runs; a point's run is found in the sums
 * over runs, and its token by walking that run, so that a point is only compared with sums of at most V / 256 shares and of
 * 256 runs. In f32 a point is within 1e-6 of where it should be.
 */
import type { OpDefinition, Value } from '../../graph/types.ts';
import {
  checkHead,
  headCost,
  headReference,
  headRows,
  LOG_Z_FUNCTIONS,
  logSumExp,
  logZWgsl,
  THREADS,
  type HeadAttributes,
} from '../head-rows.ts';
import { f32, rolled, type rowGrid } from '../wgsl.ts';
import { draw } from './draw.ts';

export const linearSampleOp: OpDefinition<HeadAttributes> = {
  name: 'linear-sample',
  packed: [1],

  infer([hidden, weight, points, bias], { temperatures }) {
    checkHead('linear-sample', hidden!, weight!, bias);
    const lead = hidden!.shape.slice(0, -1);
    if (points!.shape.slice(0, -1).join() !== lead.join()) {
      throw new RangeError(`linear-sample: hidden [${hidden!.shape}], points [${points!.shape}]`);
    }
    return [
      { shape: points!.shape, dtype: 'i32' },
      { shape: points!.shape, dtype: 'f32' },
      { shape: [...lead, temperatures.length], dtype: 'f32' },
    ];
  },

  cost: ([hidden, weight]) => headCost(hidden!, weight!),

  reference([hidden, weight, points, bias], { temperatures, softcap }, [idsType, logitsType, logZType]) {
    const H = weight!.shape[1] as number;
    const rows = hidden!.data.length / H;
    const N = points!.data.length / rows;
    const ids = new Float64Array(rows * N);
    const logits = new Float64Array(rows * N);
    const logZ = new Float64Array(rows * temperatures.length);
    for (let row = 0; row < rows; row++) {
      const z = headReference(hidden!.data.subarray(row * H, (row + 1) * H), weight!.data, bias?.data, softcap);
      const largest = z.reduce((a, b) => Math.max(a, b));
      const log_z = temperatures.map((T) => logSumExp(z, largest, T));
      logZ.set(log_z, row * temperatures.length);
      ids.set(draw(z, points!.data.subarray(row * N, (row + 1) * N), log_z, temperatures), row * N);
      for (let j = row * N; j < (row + 1) * N; j++) logits[j] = z[ids[j]!]!;
    }
    return [
      { shape: idsType!.shape as number[], data: ids },
      { shape: logitsType!.shape as number[], data: logits },
      { shape: logZType!.shape as number[], data: logZ },
    ];
  },

  kernel({ inputs: [hidden, weight, points, bias], outputs: [ids, values, logZ], ...context }) {
    const { temperatures } = context.attributes;
    const N = points!.shape.at(-1) as number;
    return headRows(
      'linear-sample',
      { hidden: hidden!, weight: weight!, bias },
      context,
      [
        { name: 'points', operand: points!, each: N, access: 'read' },
        { name: 'ids', operand: ids!, each: N, access: 'write' },
        { name: 'values', operand: values!, each: N, access: 'write' },
        { name: 'log_z', operand: logZ!, each: temperatures.length, access: 'write' },
      ],
      (grid, V) => rowCode(grid, V, N, temperatures),
    );
  },
};

function rowCode(grid: ReturnType<typeof rowGrid>, V: number, N: number, temperatures: readonly number[]): string {
  const run = Math.ceil(V / THREADS);
  const shares = temperatures.map((T, t) => `part[${t}] * exp(d / ${f32(T)})`);
  return `
// of each run its largest logit, then the shares of all runs up to its end
var<workgroup> runs: array<f32, ${THREADS}>;
var<workgroup> largest: f32;
${LOG_Z_FUNCTIONS}

// 1 / Σ exp((z − m) / T) of each temperature
var<private> part: array<f32, ${temperatures.length}>;
// ${temperatures.length} times the proposal
fn share(d: f32) -> f32 { return ${shares.join(' + ')}; }

${grid.entry} {
  ${grid.index}
  let base = row * ${V}u;
  let begin = min(lid * ${run}u, ${V}u);
  let end = min(begin + ${run}u, ${V}u);

  var most = -3.4e38;
  for (var v = begin; v < end; v++) { most = max(most, logits[base + v]); }
  runs[lid] = most;
  workgroupBarrier();
  if (lid == 0u) {
    for (var other = 1u; other < ${rolled(THREADS, 'lid')}; other++) { most = max(most, runs[other]); }
    largest = most;
  }
  let m = workgroupUniformLoad(&largest);
${logZWgsl(temperatures, V, (t, total) => `\n    part[${t}] = 1.0 / ${total};`)}

  var own = 0.0;
  for (var v = begin; v < end; v++) { own += share(logits[base + v] - m); }
  runs[lid] = own;
  workgroupBarrier();
  if (lid == 0u) {
    for (var other = 1u; other < ${rolled(THREADS, 'lid')}; other++) {
      own += runs[other];
      runs[other] = own;
    }
  }
  workgroupBarrier();

  for (var j = lid; j < ${N}u; j += ${THREADS}u) {
    let point = points[row * ${N}u + j] * runs[${THREADS - 1}u];
    // the first run whose end is beyond the point: it has a share
    var low = 0u;
    var high = ${THREADS - 1}u;
    while (low < high) {
      let middle = (low + high) / 2u;
      if (runs[middle] > point) { high = middle; } else { low = middle + 1u; }
    }
    var left = point;
    if (low > 0u) { left -= runs[low - 1u]; }
    // where the run's own sum rounds to less than is left, the last token that adds to it
    let stop = min(low * ${run}u + ${run}u, ${V}u);
    var id = 0u;
    var walked = 0.0;
    for (var v = low * ${run}u; v < stop; v++) {
      let next = walked + share(logits[base + v] - m);
      if (next > walked) { id = v; }
      walked = next;
      if (walked > left) { break; }
    }
    ids[row * ${N}u + j] = i32(id);
    values[row * ${N}u + j] = logits[base + id];
  }
}`;
}

/**
 * @param hidden f32 [B, T, H]
 * @param weight f32 [V, H]
 * @param points f32 [B, T, N], rising in a row, from 0 and below 1
 * @param bias f32 [V], added to the logits (masked-LM heads)
 * @returns ids i32 [B, T, N], rising, a token once for each point on it; logits f32 [B, T, N] of these; log_z f32 [B, T, temperatures]
 */
export function linearSample(
  hidden: Value,
  weight: Value,
  points: Value,
  attributes: HeadAttributes,
  bias?: Value,
): { ids: Value; logits: Value; log_z: Value } {
  const [ids, logits, log_z] = hidden.graph.apply(
    linearSampleOp as unknown as OpDefinition,
    bias ? [hidden, weight, points, bias] : [hidden, weight, points],
    attributes,
  );
  return { ids: ids!, logits: logits!, log_z: log_z! };
}
