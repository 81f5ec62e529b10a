/**
 * Attention's backward pass. Two owners, so that nothing is added by two: dQ by tiles of 32 queries that walk over the keys,
 * dK and dV by tiles of 32 keys that walk over the queries of every head of their group. Both make scores and probabilities
 * again from q, k and lse. Above 128 entries a head dK and dV are two dispatches: together they would not fit in registers.
 */
import type { Dispatch, Operand } from '../../graph/types.ts';
import { f32, rolled } from '../wgsl.ts';
import {
  TILE,
  TILE_STRIDE,
  accumulator,
  declareAccumulators,
  forRounds,
  gradientBindings,
  ownership,
  range,
  score,
  scoreWgsl,
  spreadProduct,
  tileProduct,
  timesSlope,
  visible,
  type Problem,
} from './problem.ts';

const lines = (count: number, line: (i: number) => string): string => range(count).map(line).join('\n');

export function queryGradientDispatch(problem: Problem, outputs: readonly Operand[]): Dispatch {
  const { B, T, S, heads, kv_heads, group, vectors, element, scale, causal, window } = problem;
  const { rows } = ownership(problem);
  const keyRow = (j: string): string => `((wid.z * ${S}u + ${j}) * ${kv_heads}u + wid.y / ${group}u) * ${vectors}u`;
  const queryRow = (i: string): string => `((wid.z * ${T}u + ${i}) * ${heads}u + wid.y) * ${vectors}u`;

  const code = `${scoreWgsl(problem, 'vec4<f32>')}var<workgroup> ds_tile: array<vec4<f32>, ${TILE * TILE_STRIDE}>;
@compute @workgroup_size(64) fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
  let first_query = wid.x * ${TILE}u;
  let tx = lid % 8u;
  let ty = lid / 8u;
${lines(
  4,
  (i) => `  let query${i} = first_query + 4u * ty + ${i}u;
  let inside${i} = min(query${i}, ${T - 1}u);
  let about${i} = rows[(wid.z * ${heads}u + wid.y) * ${T}u + inside${i}];
  let of_query${i} = select(0, i32(about${i}.z), query${i} < ${T}u);
  let query_at${i} = ${queryRow(`inside${i}`)};`,
)}
${declareAccumulators(problem, 'dq')}
  let last = ${causal ? `min(${S}u, first_query + ${TILE}u)` : `${S}u`};
  let first = ${window === undefined ? '0u' : `u32(max(i32(first_query) - ${window - 1}, 0)) / ${TILE}u * ${TILE}u`};
  for (var first_key = first; first_key < last; first_key += ${TILE}u) {
    let key = first_key + 4u * tx;
${lines(4, (j) => `    let key_at${j} = ${keyRow(`min(key + ${j}u, ${S - 1}u)`)};`)}
${lines(4, (i) => `    var s${i} = vec4<f32>();\n    var dp${i} = vec4<f32>();`)}
    for (var c = 0u; c < ${rolled(vectors, 'lid')}; c++) {
      ${tileProduct(
        problem,
        's',
        'q',
        'k',
        (i) => `query_at${i}`,
        (j) => `key_at${j}`,
      )}
      ${tileProduct(
        problem,
        'dp',
        'g',
        'v',
        (i) => `query_at${i}`,
        (j) => `key_at${j}`,
      )}
    }
    let keys4 = vec4<i32>(i32(key)) + vec4<i32>(0, 1, 2, 3);
    let of_keys = vec4<i32>(${range(4)
      .map((j) => `select(0, key_segments[wid.z * ${S}u + min(key + ${j}u, ${S - 1}u)], key + ${j}u < ${S}u)`)
      .join(', ')});
${lines(
  4,
  (i) => `    let seen${i} = ${visible(problem, {
    query: `vec4<i32>(i32(query${i}))`,
    ofQuery: `vec4<i32>(of_query${i})`,
    key: 'keys4',
    ofKey: 'of_keys',
  })};
    let score${i} = ${score(problem, `s${i}`)};
    let p${i} = exp(select(vec4<f32>(-80.0), score${i} - about${i}.x, seen${i}));
    ds_tile[(4u * ty + ${i}u) * ${TILE_STRIDE}u + tx] = select(vec4<f32>(), p${i} * (dp${i} - about${i}.y)${timesSlope(problem, `score${i}`)}, seen${i});`,
)}
    workgroupBarrier();
    let count = min(${TILE}u, last - first_key);
${forRounds(problem, (round) =>
  spreadProduct(problem, round, 'count', [{ name: 'dq', tile: 'ds_tile', source: 'k' }], (j) =>
    keyRow(`first_key + ${j}`),
  ),
)}
    workgroupBarrier();
  }
${forRounds(problem, (round) =>
  range(rows)
    .map(
      (i) =>
        `if (first_query + row + ${i}u < ${T}u) { dq[${queryRow(`first_query + row + ${i}u`)} + c] = ${accumulator('dq', round, i)} * ${f32(scale)}; }`,
    )
    .join('\n      '),
)}
}`;
  return {
    label: `attention-query-gradient ${B}x${T} ${heads}/${kv_heads}·${problem.head_dim}`,
    bindings: [...gradientBindings(problem), { name: 'dq', operand: outputs[0]!, access: 'write', element }],
    code,
    workgroups: [Math.ceil(T / TILE), heads, B],
  };
}

export function keyValueGradientDispatches(problem: Problem, outputs: readonly Operand[]): Dispatch[] {
  const targets = [
    { name: 'dk', tile: 'ds_tile', source: 'q', operand: outputs[0]!, factor: ` * ${f32(problem.scale)}` },
    { name: 'dv', tile: 'p_tile', source: 'g', operand: outputs[1]!, factor: '' },
  ];
  return problem.head_dim <= 128
    ? [keyGradientDispatch(problem, targets)]
    : targets.map((target) => keyGradientDispatch(problem, [target]));
}

function keyGradientDispatch(
  problem: Problem,
  targets: readonly { name: string; tile: string; source: string; operand: Operand; factor: string }[],
): Dispatch {
  const { B, T, S, heads, kv_heads, group, vectors, element, causal, window } = problem;
  const { rows } = ownership(problem);
  const keyRow = (j: string): string => `((wid.z * ${S}u + ${j}) * ${kv_heads}u + wid.y) * ${vectors}u`;
  const queryRow = (i: string): string => `((wid.z * ${T}u + ${i}) * ${heads}u + head) * ${vectors}u`;
  const both = targets.length === 2;
  const wantsKeys = targets.some(({ name }) => name === 'dk');

  const code = `${scoreWgsl(problem, 'vec4<f32>')}${targets.map(({ tile }) => `var<workgroup> ${tile}: array<vec4<f32>, ${TILE * TILE_STRIDE}>;`).join('\n')}
@compute @workgroup_size(64) fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
  let first_key = wid.x * ${TILE}u;
  let tx = lid % 8u;
  let ty = lid / 8u;
${lines(
  4,
  (i) => `  let key${i} = first_key + 4u * ty + ${i}u;
  let of_key${i} = select(0, key_segments[wid.z * ${S}u + min(key${i}, ${S - 1}u)], key${i} < ${S}u);
  let key_at${i} = ${keyRow(`min(key${i}, ${S - 1}u)`)};`,
)}
${targets.map(({ name }) => declareAccumulators(problem, name)).join('\n')}
  let first = ${causal ? 'first_key' : '0u'};
  let last = ${window === undefined ? `${T}u` : `min(${T}u, first_key + ${TILE - 1 + window}u)`};
  for (var head = wid.y * ${group}u; head < wid.y * ${group}u + ${rolled(group, 'wid.y')}; head++) {
    for (var first_query = first; first_query < last; first_query += ${TILE}u) {
      let query = first_query + 4u * tx;
${lines(
  4,
  (j) => `      let inside${j} = min(query + ${j}u, ${T - 1}u);
      let query_at${j} = ${queryRow(`inside${j}`)};`,
)}
${lines(4, (i) => `      var s${i} = vec4<f32>();${wantsKeys ? `\n      var dp${i} = vec4<f32>();` : ''}`)}
      for (var c = 0u; c < ${rolled(vectors, 'lid')}; c++) {
      ${tileProduct(
        problem,
        's',
        'k',
        'q',
        (i) => `key_at${i}`,
        (j) => `query_at${j}`,
      )}
      ${
        wantsKeys
          ? tileProduct(
              problem,
              'dp',
              'v',
              'g',
              (i) => `key_at${i}`,
              (j) => `query_at${j}`,
            )
          : ''
      }
      }
      let queries4 = vec4<i32>(i32(query)) + vec4<i32>(0, 1, 2, 3);
${lines(4, (j) => `      let about${j} = rows[(wid.z * ${heads}u + head) * ${T}u + inside${j}];`)}
      let of_queries = vec4<i32>(${range(4)
        .map((j) => `select(0, i32(about${j}.z), query + ${j}u < ${T}u)`)
        .join(', ')});
      let lse4 = vec4<f32>(about0.x, about1.x, about2.x, about3.x);
      let delta4 = vec4<f32>(about0.y, about1.y, about2.y, about3.y);
${lines(
  4,
  (i) => `      let seen${i} = ${visible(problem, {
    query: 'queries4',
    ofQuery: 'of_queries',
    key: `vec4<i32>(i32(key${i}))`,
    ofKey: `vec4<i32>(of_key${i})`,
  })};
      let score${i} = ${score(problem, `s${i}`)};
      let p${i} = select(vec4<f32>(), exp(select(vec4<f32>(-80.0), score${i} - lse4, seen${i})), seen${i});
      ${both || !wantsKeys ? `p_tile[(4u * ty + ${i}u) * ${TILE_STRIDE}u + tx] = p${i};` : ''}
      ${wantsKeys ? `ds_tile[(4u * ty + ${i}u) * ${TILE_STRIDE}u + tx] = p${i} * (dp${i} - delta4)${timesSlope(problem, `score${i}`)};` : ''}`,
)}
      workgroupBarrier();
      let count = min(${TILE}u, ${T}u - first_query);
${forRounds(problem, (round) =>
  spreadProduct(problem, round, 'count', targets, (j) => queryRow(`(first_query + ${j})`)),
)}
      workgroupBarrier();
    }
  }
${forRounds(problem, (round) =>
  range(rows)
    .map(
      (i) =>
        `if (first_key + row + ${i}u < ${S}u) { ${targets
          .map(
            ({ name, factor }) =>
              `${name}[${keyRow(`(first_key + row + ${i}u)`)} + c] = ${accumulator(name, round, i)}${factor};`,
          )
          .join(' ')} }`,
    )
    .join('\n      '),
)}
}`;
  return {
    label: `attention-${targets.map(({ name }) => name).join('-')} ${B}x${T} ${heads}/${kv_heads}·${problem.head_dim}`,
    bindings: [
      ...gradientBindings(problem),
      ...targets.map(({ name, operand }) => ({ name, operand, access: 'write', element }) as const),
    ],
    code,
    workgroups: [Math.ceil(S / TILE), kv_heads, B],
  };
}
