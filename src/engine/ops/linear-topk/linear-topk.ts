/**
 * What a teacher's cache keeps of a row of logits z = hidden Wᵀ (+ b): the k largest with their ids, and log Σ exp(z / T) over
 * the whole vocabulary at each temperature. Chunk by chunk: [tokens × vocabulary] never exists.
 *
 * Selection is exact and repeatable: a radix search (four digits of eight bits, counted with integer atomics) finds the
 * k-th largest, then the k entries are ranked by (larger logit, smaller id).
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
import { rolled, type rowGrid } from '../wgsl.ts';

type LinearTopkAttributes = HeadAttributes & { readonly k: number };

/** Candidates live in workgroup memory. */
const MAX_K = 1024;

export const linearTopkOp: OpDefinition<LinearTopkAttributes> = {
  name: 'linear-topk',
  packed: [1],

  infer([hidden, weight, bias], { k, temperatures }) {
    checkHead('linear-topk', hidden!, weight!, bias);
    const limit = Math.min(MAX_K, weight!.shape[0] as number);
    if (k < 1 || k > limit) throw new RangeError(`linear-topk: k is ${k}, not 1 to ${limit}`);
    const lead = hidden!.shape.slice(0, -1);
    return [
      { shape: [...lead, k], dtype: 'i32' },
      { shape: [...lead, k], dtype: 'f32' },
      { shape: [...lead, temperatures.length], dtype: 'f32' },
    ];
  },

  cost: ([hidden, weight]) => headCost(hidden!, weight!),

  reference([hidden, weight, bias], { k, temperatures, softcap }, [idsType, logitsType, logZType]) {
    const H = weight!.shape[1] as number;
    const rows = hidden!.data.length / H;
    const ids = new Float64Array(rows * k);
    const logits = new Float64Array(rows * k);
    const logZ = new Float64Array(rows * temperatures.length);
    for (let row = 0; row < rows; row++) {
      const z = headReference(hidden!.data.subarray(row * H, (row + 1) * H), weight!.data, bias?.data, softcap);
      const order = Array.from(z.keys()).sort((a, b) => z[b]! - z[a]! || a - b);
      for (let j = 0; j < k; j++) {
        ids[row * k + j] = order[j]!;
        logits[row * k + j] = z[order[j]!]!;
      }
      const largest = z[order[0]!]!;
      temperatures.forEach((T, i) => (logZ[row * temperatures.length + i] = logSumExp(z, largest, T)));
    }
    return [
      { shape: idsType!.shape as number[], data: ids },
      { shape: logitsType!.shape as number[], data: logits },
      { shape: logZType!.shape as number[], data: logZ },
    ];
  },

  kernel({ inputs: [hidden, weight, bias], outputs: [ids, values, logZ], ...context }) {
    const { k, temperatures } = context.attributes;
    return headRows(
      'linear-topk',
      { hidden: hidden!, weight: weight!, bias },
      context,
      [
        { name: 'ids', operand: ids!, each: k, access: 'write' },
        { name: 'values', operand: values!, each: k, access: 'write' },
        { name: 'log_z', operand: logZ!, each: temperatures.length, access: 'write' },
      ],
      (grid, V) => rowCode(grid, V, k, temperatures),
    );
  },
};

function rowCode(grid: ReturnType<typeof rowGrid>, V: number, k: number, temperatures: readonly number[]): string {
  return `
var<workgroup> histogram: array<atomic<u32>, 256>;
var<workgroup> largest: f32;
var<workgroup> candidate_key: array<u32, ${k}>;
var<workgroup> candidate_id: array<u32, ${k}>;
var<workgroup> found: atomic<u32>;
var<workgroup> prefix: u32;
var<workgroup> remaining: u32;
var<workgroup> smallest: atomic<u32>;
${LOG_Z_FUNCTIONS}

// unsigned integers in the order of the floats
fn key_of(z: f32) -> u32 {
  let bits = bitcast<u32>(z);
  return select(bits | 0x80000000u, ~bits, (bits & 0x80000000u) != 0u);
}
fn value_of(key: u32) -> f32 {
  return bitcast<f32>(select(~key, key & 0x7fffffffu, (key & 0x80000000u) != 0u));
}

${grid.entry} {
  ${grid.index}
  let base = row * ${V}u;

  if (lid == 0u) { prefix = 0u; remaining = ${k}u; atomicStore(&found, 0u); }
  for (var digit = 0u; digit < ${rolled(4, 'wid.x')}; digit++) {
    let shift = 24u - 8u * digit;
    atomicStore(&histogram[lid], 0u);
    workgroupBarrier();
    let seen = workgroupUniformLoad(&prefix);
    for (var v = lid; v < ${V}u; v += ${THREADS}u) {
      let key = key_of(logits[base + v]);
      if (digit == 0u || (key >> (shift + 8u)) == seen) { atomicAdd(&histogram[(key >> shift) & 255u], 1u); }
    }
    workgroupBarrier();
    if (lid == 0u) {
      var bin = 255u;
      var left = remaining;
      loop {
        let count = atomicLoad(&histogram[bin]);
        if (count >= left || bin == 0u) { break; }
        left -= count;
        bin -= 1u;
      }
      remaining = left;
      prefix = (seen << 8u) | bin;
    }
    workgroupBarrier();
  }
  let threshold = workgroupUniformLoad(&prefix);
  let ties = workgroupUniformLoad(&remaining);

  for (var v = lid; v < ${V}u; v += ${THREADS}u) {
    let key = key_of(logits[base + v]);
    if (key > threshold) {
      let slot = atomicAdd(&found, 1u);
      candidate_key[slot] = key;
      candidate_id[slot] = v;
    }
  }
  // of those equal to the k-th largest, the smallest ids
  var after = 0u;
  for (var tie = 0u; tie < ties; tie++) {
    if (lid == 0u) { atomicStore(&smallest, 0xffffffffu); }
    workgroupBarrier();
    for (var v = lid; v < ${V}u; v += ${THREADS}u) {
      if (v >= after && key_of(logits[base + v]) == threshold) { atomicMin(&smallest, v); break; }
    }
    workgroupBarrier();
    let id = atomicLoad(&smallest);
    if (lid == 0u) {
      candidate_key[${k}u - ties + tie] = threshold;
      candidate_id[${k}u - ties + tie] = id;
    }
    after = id + 1u;
    workgroupBarrier();
  }
  workgroupBarrier();

  for (var j = lid; j < ${k}u; j += ${THREADS}u) {
    let key = candidate_key[j];
    let id = candidate_id[j];
    var rank = 0u;
    for (var other = 0u; other < ${rolled(k, 'lid')}; other++) {
      if (candidate_key[other] > key || (candidate_key[other] == key && candidate_id[other] < id)) { rank += 1u; }
    }
    ids[row * ${k}u + rank] = i32(id);
    values[row * ${k}u + rank] = value_of(key);
    if (rank == 0u) { largest = value_of(key); }
  }
  workgroupBarrier();
  let m = workgroupUniformLoad(&largest);
${logZWgsl(temperatures, V)}
}`;
}

/**
 * @param hidden f32 [B, T, H]
 * @param weight f32 [V, H]
 * @param bias f32 [V], added to the logits (masked-LM heads)
 * @returns ids i32 [B, T, k] and logits f32 [B, T, k], largest first, smaller id first among equals; log_z f32 [B, T, temperatures]
 */
export function linearTopk(
  hidden: Value,
  weight: Value,
  attributes: LinearTopkAttributes,
  bias?: Value,
): { ids: Value; logits: Value; log_z: Value } {
  const [ids, logits, log_z] = hidden.graph.apply(
    linearTopkOp as unknown as OpDefinition,
    bias ? [hidden, weight, bias] : [hidden, weight],
    attributes,
  );
  return { ids: ids!, logits: logits!, log_z: log_z! };
}
