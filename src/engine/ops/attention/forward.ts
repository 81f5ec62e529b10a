/**
 * Attention's forward pass for many queries: a workgroup owns 32 queries of one head and walks over the keys it may see in
 * tiles of 32, with a running maximum and sum a row (online softmax, Milakov & Gimelshein 2018).
 *
 *   S tile = score(Q Kᵀ) (4 x 4 a thread) ─▶ row maxima ─▶ P tile in workgroup memory, row sums ─▶ O = O·e^(m−m′) + P V
 *
 * O stays in registers, owned by row groups and vectors of the head (`ownership`). Workgroup memory: 6 KB.
 */
import type { Dispatch, Operand } from '../../graph/types.ts';
import { rolled } from '../wgsl.ts';
import {
  TILE,
  TILE_STRIDE,
  accumulator,
  declareAccumulators,
  forRounds,
  inputBindings,
  ownership,
  range,
  score,
  scoreWgsl,
  spreadProduct,
  tileProduct,
  visible,
  type Problem,
} from './problem.ts';

export function forwardDispatch(problem: Problem, outputs: readonly Operand[]): Dispatch {
  const { B, T, S, heads, kv_heads, group, vectors, element, causal, window, past } = problem;
  const { rows } = ownership(problem);
  const keyRow = (j: string): string => `((wid.z * ${S}u + ${j}) * ${kv_heads}u + wid.y / ${group}u) * ${vectors}u`;
  const queryRow = (i: string): string => `((wid.z * ${T}u + ${i}) * ${heads}u + wid.y) * ${vectors}u`;
  const keys = past ? `u32(past) + ${T}u` : `${S}u`;

  const code = `${scoreWgsl(problem, 'vec4<f32>')}var<workgroup> p_tile: array<vec4<f32>, ${TILE * TILE_STRIDE}>;
var<workgroup> parts: array<f32, ${TILE * 8}>;
var<workgroup> row_max: array<f32, ${TILE}>;
var<workgroup> row_factor: array<f32, ${TILE}>;
${past ? 'var<workgroup> shared_past: i32;\n' : ''}@compute @workgroup_size(64) fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
  ${past ? 'if (lid == 0u) { shared_past = past_length[0]; }\n  let past = workgroupUniformLoad(&shared_past);' : 'let past = 0;'}
  let first_query = wid.x * ${TILE}u;
  let tx = lid % 8u;
  let ty = lid / 8u;
${range(4)
  .map(
    (i) => `  let query${i} = first_query + 4u * ty + ${i}u;
  let of_query${i} = select(0, query_segments[wid.z * ${T}u + min(query${i}, ${T - 1}u)], query${i} < ${T}u);
  let query_at${i} = ${queryRow(`min(query${i}, ${T - 1}u)`)};`,
  )
  .join('\n')}
${declareAccumulators(problem, 'o')}
  var running_max = -1e30;
  var running_sum = 0.0;
  let keys = min(${keys}, ${S}u);
  let last = ${causal ? `min(keys, u32(past) + first_query + ${TILE}u)` : 'keys'};
  let first = ${window === undefined ? '0u' : `u32(max(past + i32(first_query) - ${window - 1}, 0)) / ${TILE}u * ${TILE}u`};
  for (var first_key = first; first_key < last; first_key += ${TILE}u) {
    let key = first_key + 4u * tx;
${range(4)
  .map((j) => `    let key_at${j} = ${keyRow(`min(key + ${j}u, ${S - 1}u)`)};`)
  .join('\n')}
${range(4)
  .map((i) => `    var s${i} = vec4<f32>();`)
  .join('\n')}
    for (var c = 0u; c < ${rolled(vectors, 'lid')}; c++) {
      ${tileProduct(
        problem,
        's',
        'q',
        'k',
        (i) => `query_at${i}`,
        (j) => `key_at${j}`,
      )}
    }
    let keys4 = vec4<i32>(i32(key)) + vec4<i32>(0, 1, 2, 3);
    let of_keys = vec4<i32>(${range(4)
      .map((j) => `select(0, key_segments[wid.z * ${S}u + min(key + ${j}u, ${S - 1}u)], key + ${j}u < keys)`)
      .join(', ')});
${range(4)
  .map(
    (i) => `    let seen${i} = ${visible(problem, {
      query: `vec4<i32>(past + i32(query${i}))`,
      ofQuery: `vec4<i32>(of_query${i})`,
      key: 'keys4',
      ofKey: 'of_keys',
    })};
    s${i} = select(vec4<f32>(-1e30), ${score(problem, `s${i}`)}, seen${i});
    parts[(4u * ty + ${i}u) * 8u + tx] = max(max(s${i}.x, s${i}.y), max(s${i}.z, s${i}.w));`,
  )
  .join('\n')}
    workgroupBarrier();
    if (lid < ${TILE}u) {
      var new_max = running_max;
      for (var i = 0u; i < ${rolled(8, 'lid')}; i++) { new_max = max(new_max, parts[lid * 8u + i]); }
      row_max[lid] = new_max;
      row_factor[lid] = exp(max(running_max - new_max, -80.0));
      running_max = new_max;
    }
    workgroupBarrier();
${range(4)
  .map(
    (i) => `    let p${i} = select(vec4<f32>(), exp(s${i} - row_max[4u * ty + ${i}u]), seen${i});
    p_tile[(4u * ty + ${i}u) * ${TILE_STRIDE}u + tx] = p${i};
    parts[(4u * ty + ${i}u) * 8u + tx] = p${i}.x + p${i}.y + p${i}.z + p${i}.w;`,
  )
  .join('\n')}
    workgroupBarrier();
    if (lid < ${TILE}u) {
      var sum = 0.0;
      for (var i = 0u; i < ${rolled(8, 'lid')}; i++) { sum += parts[lid * 8u + i]; }
      running_sum = running_sum * row_factor[lid] + sum;
    }
    let count = min(${TILE}u, last - first_key);
${forRounds(
  problem,
  (round) => `${range(rows)
    .map((i) => `${accumulator('o', round, i)} *= row_factor[row + ${i}u];`)
    .join(' ')}
      ${spreadProduct(problem, round, 'count', [{ name: 'o', tile: 'p_tile', source: 'v' }], (j) => keyRow(`first_key + ${j}`))}`,
)}
    workgroupBarrier();
  }
  if (lid < ${TILE}u) {
    row_factor[lid] = select(0.0, 1.0 / running_sum, running_sum > 0.0);
    let query = first_query + lid;
    if (query < ${T}u) {
      lse[(wid.z * ${heads}u + wid.y) * ${T}u + query] = select(0.0, running_max + log(max(running_sum, 1e-30)), running_sum > 0.0);
    }
  }
  workgroupBarrier();
${forRounds(problem, (round) =>
  range(rows)
    .map(
      (i) =>
        `if (first_query + row + ${i}u < ${T}u) { attended[${queryRow(`first_query + row + ${i}u`)} + c] = ${accumulator('o', round, i)} * row_factor[row + ${i}u]; }`,
    )
    .join('\n      '),
)}
}`;
  return {
    label: `attention ${B}x${T}x${S} ${heads}/${kv_heads}·${problem.head_dim}`,
    bindings: [
      ...inputBindings(problem),
      { name: 'attended', operand: outputs[0]!, access: 'write', element },
      { name: 'lse', operand: outputs[1]!, access: 'write' },
    ],
    code,
    workgroups: [Math.ceil(T / TILE), heads, B],
  };
}
