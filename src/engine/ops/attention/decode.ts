/**
 * Attention for a few queries against many keys (decoding): each query of each head is a workgroup. It takes the keys in
 * chunks of 256: scores four a thread, one running maximum and sum for all, then the threads split the head's vectors among
 * them, and the keys of the chunk among those that share a vector.
 */
import type { Dispatch, Operand } from '../../graph/types.ts';
import { MAX_OF_64_THREADS, SUM_OF_64_THREADS, rolled } from '../wgsl.ts';
import { inputBindings, score, scoreWgsl, type Problem } from './problem.ts';

const CHUNK = 256;

export function decodeDispatch(problem: Problem, outputs: readonly Operand[]): Dispatch {
  const { B, T, S, heads, kv_heads, group, vectors, width, element, causal, window, past } = problem;
  const keyRow = (j: string): string => `((b * ${S}u + ${j}) * ${kv_heads}u + head / ${group}u) * ${vectors}u`;
  // vectors of the head a thread owns, one a round; threads that share one split the keys
  const rounds = Math.ceil(vectors / 64);
  const sharing = Math.max(1, Math.floor(64 / vectors));
  const dot = width === 1 ? 'query_row[c] * k[at + c]' : 'dot(query_row[c], k[at + c])';
  const mask = [
    'of_key == of_query',
    'of_key != 0',
    causal ? 'i32(key) <= query' : '',
    window === undefined ? '' : `query - i32(key) < ${window}`,
  ].filter(Boolean);

  const code = `${scoreWgsl(problem, 'f32')}var<workgroup> query_row: array<${element}, ${vectors}>;
var<workgroup> weights: array<f32, ${CHUNK}>;
var<workgroup> partial_rows: array<${element}, ${64 * rounds}>;
${past ? 'var<workgroup> shared_past: i32;\n' : ''}${SUM_OF_64_THREADS}${MAX_OF_64_THREADS}@compute @workgroup_size(64) fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
  ${past ? 'if (lid == 0u) { shared_past = past_length[0]; }\n  let past = workgroupUniformLoad(&shared_past);' : 'let past = 0;'}
  let head = wid.y;
  let b = wid.z;
  let query = past + i32(wid.x);
  let of_query = query_segments[b * ${T}u + wid.x];
  let row = ((b * ${T}u + wid.x) * ${heads}u + head) * ${vectors}u;
  for (var c = lid; c < ${vectors}u; c += 64u) { query_row[c] = q[row + c]; }
  workgroupBarrier();
  let last = min(${causal ? 'u32(query) + 1u' : past ? `u32(past) + ${T}u` : `${S}u`}, ${S}u);
  let first = ${window === undefined ? '0u' : `u32(max(query - ${window - 1}, 0))`};
${Array.from({ length: rounds }, (_, r) => `  var o${r} = ${element}();`).join('\n')}
  var running_max = -1e30;
  var running_sum = 0.0;
  for (var first_key = first; first_key < last; first_key += ${CHUNK}u) {
    let count = min(${CHUNK}u, last - first_key);
    var largest = -1e30;
    for (var j = lid; j < count; j += 64u) {
      let key = first_key + j;
      let of_key = key_segments[b * ${S}u + key];
      let at = ${keyRow('key')};
      var product = 0.0;
      for (var c = 0u; c < ${rolled(vectors, 'lid')}; c++) { product += ${dot}; }
      let score = select(-2e30, ${score(problem, 'product')}, ${mask.join(' && ')});
      weights[j] = score;
      largest = max(largest, score);
    }
    let new_max = max(running_max, max_threads(lid, largest));
    var part = 0.0;
    for (var j = lid; j < count; j += 64u) {
      let weight = select(0.0, exp(weights[j] - new_max), weights[j] > -1.5e30);
      weights[j] = weight;
      part += weight;
    }
    let factor = exp(max(running_max - new_max, -80.0));
    running_sum = running_sum * factor + sum_threads(lid, part);
    running_max = new_max;
${Array.from(
  { length: rounds },
  (_, r) => `    {
      let c = (lid + ${64 * r}u) % ${rounds > 1 ? 64 * rounds : vectors}u;
      o${r} *= factor;
      if (lid + ${64 * r}u < ${rounds > 1 ? vectors : vectors * sharing}u) {
        for (var j = lid / ${rounds > 1 ? 64 : vectors}u; j < count; j += ${sharing}u) {
          o${r} += weights[j] * v[${keyRow('(first_key + j)')} + c];
        }
      }
    }`,
).join('\n')}
    workgroupBarrier();
  }
${Array.from({ length: rounds }, (_, r) => `  partial_rows[lid + ${64 * r}u] = o${r};`).join('\n')}
  workgroupBarrier();
  let scale_by = select(0.0, 1.0 / running_sum, running_sum > 0.0);
  for (var c = lid; c < ${vectors}u; c += 64u) {
    var sum = partial_rows[c];
    for (var n = 1u; n < ${rolled(sharing, 'lid')}; n++) { sum += partial_rows[n * ${vectors}u + c]; }
    attended[row + c] = sum * scale_by;
  }
  if (lid == 0u) {
    lse[(b * ${heads}u + head) * ${T}u + wid.x] = select(0.0, running_max + log(max(running_sum, 1e-30)), running_sum > 0.0);
  }
}`;
  return {
    label: `attention decode ${B}x${T}x${S} ${heads}/${kv_heads}·${problem.head_dim}`,
    bindings: [
      ...inputBindings(problem),
      { name: 'attended', operand: outputs[0]!, access: 'write', element },
      { name: 'lse', operand: outputs[1]!, access: 'write' },
    ],
    code,
    workgroups: [T, heads, B],
  };
}
