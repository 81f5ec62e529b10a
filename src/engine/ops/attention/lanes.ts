/**
 * Attention for adapters that compute on the CPU (see matmul/lanes.ts: there loads count, not multiplications, and barriers
 * take many seconds to compile). A workgroup is one subgroup; each lane owns a query (forward, dQ) or a key (dK and dV), whole
 * rows in registers. The rows of the other side are walked one by one: the lanes load a row together, each its share, and
 * `subgroupBroadcast` hands it round, so a multiply-add costs 1/8 load forward and 1/16 backward with eight lanes. No
 * workgroup memory, no barriers; a causal mask wastes half a subgroup at most, not half a tile.
 */
import type { Dispatch, KernelLimits, Operand } from '../../graph/types.ts';
import { f32, rolled } from '../wgsl.ts';
import { gradientBindings, inputBindings, range, score, scoreWgsl, timesSlope, type Problem } from './problem.ts';

const CPU_LANES = [4, 8];
/** Rows longer than this would not stay in registers and caches. */
const LONGEST_HEAD = 128;

export interface Subgroup {
  readonly lanes: number;
  /** Of four lanes a quad is all, and SwiftShader has one instruction for it, llvmpipe five times the work. */
  readonly broadcast: 'subgroupBroadcast' | 'quadBroadcast';
}

/** undefined where this variant is not for the device or the head. */
export function chooseLanes(
  head_dim: number,
  { subgroupSize: lanes, architecture }: Pick<KernelLimits, 'subgroupSize' | 'architecture'>,
): Subgroup | undefined {
  if (lanes === undefined || !CPU_LANES.includes(lanes) || head_dim > LONGEST_HEAD) return undefined;
  return { lanes, broadcast: lanes === 4 && architecture === 'swiftshader' ? 'quadBroadcast' : 'subgroupBroadcast' };
}

// one subgroup a workgroup, and past_length the same for all: what the analysis cannot see of a buffer that may be written
const ENTRY = (lanes: number): string =>
  `@diagnostic(off, subgroup_uniformity) @compute @workgroup_size(${lanes}) fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(subgroup_invocation_id) lane: u32)`;

/** A lane's share of a row: vectors lane, lanes + lane, ... */
function loadShare(problem: Problem, lanes: number, name: string, array: string, row: string): string {
  const { vectors } = problem;
  return range(Math.ceil(vectors / lanes))
    .map((r) => {
      const at = `${r * lanes}u + lane`;
      return `let ${name}${r} = ${array}[${row} + ${(r + 1) * lanes <= vectors ? at : `min(${at}, ${vectors - 1}u)`}];`;
    })
    .join('\n    ');
}

const shared = (name: string, c: number, { lanes, broadcast }: Subgroup): string =>
  `${broadcast}(${name}${Math.floor(c / lanes)}, ${c % lanes}u)`;

const vector = (problem: Problem, scalar: string): string =>
  problem.width === 1 ? scalar : `${problem.element}(${scalar})`;

/** Declares `name`0 ..: the row that is handed round, once for all that read it, because SwiftShader's compiler would do it again. */
const handRound = (problem: Problem, subgroup: Subgroup, name: string, share: string): string =>
  range(problem.vectors)
    .map((c) => `let ${name}${c} = ${shared(share, c, subgroup)};`)
    .join('\n    ');

/** Declares `name`: the product of this lane's row `own`0 .. with the row `handed`(0) .. */
function dotProduct(problem: Problem, name: string, own: string, handed: (c: number) => string): string {
  const { vectors, element, width } = problem;
  const sum = [
    '',
    `${name}_v`,
    `${name}_v.x + ${name}_v.y`,
    '',
    `(${name}_v.x + ${name}_v.y) + (${name}_v.z + ${name}_v.w)`,
  ];
  return `var ${name}_v = ${element}();
    ${range(vectors)
      .map((c) => `${name}_v = fma(${own}${c}, ${handed(c)}, ${name}_v);`)
      .join('\n    ')}
    let ${name} = ${sum[width]};`;
}

/** Statements: `name`c += factor · `handed`c. */
function addRow(problem: Problem, name: string, factor: string, handed: string): string {
  return range(problem.vectors)
    .map((c) => `${name}${c} = fma(${vector(problem, factor)}, ${handed}${c}, ${name}${c});`)
    .join('\n    ');
}

const loadRow = (problem: Problem, name: string, array: string, row: string): string =>
  range(problem.vectors)
    .map((c) => `let ${name}${c} = ${array}[${row} + ${c}u];`)
    .join(' ');
const declareRow = (problem: Problem, name: string): string =>
  range(problem.vectors)
    .map((c) => `var ${name}${c} = ${problem.element}();`)
    .join(' ');

/** WGSL condition: `query` (i32, past included) sees `key` (i32). */
function sees({ causal, window }: Problem, query: string, key: string, ofQuery: string, ofKey: string): string {
  const terms = [`${ofKey} == ${ofQuery}`, `${ofKey} != 0`];
  if (causal) terms.push(`${key} <= ${query}`);
  if (window !== undefined) terms.push(`${query} - ${key} < ${window}`);
  return terms.join(' && ');
}

export function laneForward(problem: Problem, subgroup: Subgroup, outputs: readonly Operand[]): Dispatch {
  const { lanes } = subgroup;
  const { B, T, S, heads, kv_heads, group, vectors, element, causal, window, past } = problem;
  const keyRow = (j: string): string => `((wid.z * ${S}u + ${j}) * ${kv_heads}u + wid.y / ${group}u) * ${vectors}u`;

  // two keys a round share one rescaling of the result
  const round = range(2)
    .map(
      (n) => `let key_${n} = min(first_key + ${n}u, ${S - 1}u);
    let of_key_${n} = select(0, key_segments[wid.z * ${S}u + key_${n}], first_key + ${n}u < last);
    let row_${n} = ${keyRow(`key_${n}`)};
    ${loadShare(problem, lanes, `k${n}_`, 'k', `row_${n}`)}
    ${loadShare(problem, lanes, `v${n}_`, 'v', `row_${n}`)}
    ${dotProduct(problem, `dot_${n}`, 'q_', (c) => shared(`k${n}_`, c, subgroup))}
    let seen_${n} = ${sees(problem, 'i32(query) + past', `i32(key_${n})`, 'of_query', `of_key_${n}`)};
    let s_${n} = select(-1e30, ${score(problem, `dot_${n}`)}, seen_${n});`,
    )
    .join('\n    ');

  const code = `${scoreWgsl(problem, 'f32')}${ENTRY(lanes)} {
  let past = ${past ? 'past_length[0]' : '0'};
  let query = wid.x * ${lanes}u + lane;
  let inside = min(query, ${T - 1}u);
  let of_query = select(0, query_segments[wid.z * ${T}u + inside], query < ${T}u);
  let row = ((wid.z * ${T}u + inside) * ${heads}u + wid.y) * ${vectors}u;
  ${loadRow(problem, 'q_', 'q', 'row')}
  ${declareRow(problem, 'o_')}
  var running_max = -1e30;
  var running_sum = 0.0;
  let keys = ${past ? `min(u32(past) + ${T}u, ${S}u)` : `${S}u`};
  let last = ${causal ? `min(keys, ${past ? 'u32(past) + ' : ''}(wid.x + 1u) * ${lanes}u)` : 'keys'};
  let first = ${window === undefined ? '0u' : `u32(max(${past ? 'past + ' : ''}i32(wid.x * ${lanes}u) - ${window - 1}, 0))`};
  for (var first_key = first; first_key < last; first_key += 2u) {
    ${round}
    let new_max = max(running_max, max(s_0, s_1));
    let factor = exp(max(running_max - new_max, -80.0));
    let p_0 = select(0.0, exp(s_0 - new_max), seen_0);
    let p_1 = select(0.0, exp(s_1 - new_max), seen_1);
    running_sum = running_sum * factor + p_0 + p_1;
    running_max = new_max;
    ${range(vectors)
      .map(
        (c) =>
          `o_${c} = fma(${vector(problem, 'p_1')}, ${shared('v1_', c, subgroup)}, fma(${vector(problem, 'p_0')}, ${shared('v0_', c, subgroup)}, o_${c} * factor));`,
      )
      .join('\n    ')}
  }
  if (query < ${T}u) {
    let share = select(0.0, 1.0 / running_sum, running_sum > 0.0);
    ${range(vectors)
      .map((c) => `attended[row + ${c}u] = o_${c} * share;`)
      .join(' ')}
    lse[(wid.z * ${heads}u + wid.y) * ${T}u + query] = select(0.0, running_max + log(max(running_sum, 1e-30)), running_sum > 0.0);
  }
}`;
  return {
    label: `attention ${B}x${T}x${S} ${heads}/${kv_heads}·${problem.head_dim}`,
    bindings: [
      ...inputBindings(problem),
      { name: 'attended', operand: outputs[0]!, access: 'write', element },
      { name: 'lse', operand: outputs[1]!, access: 'write' },
    ],
    code,
    workgroups: [Math.ceil(T / lanes), heads, B],
    subgroups: true,
  };
}

export function laneQueryGradient(problem: Problem, subgroup: Subgroup, outputs: readonly Operand[]): Dispatch {
  const { lanes } = subgroup;
  const { B, T, S, heads, kv_heads, group, vectors, element, scale, causal, window } = problem;
  const code = `${scoreWgsl(problem, 'f32')}${ENTRY(lanes)} {
  let query = wid.x * ${lanes}u + lane;
  let inside = min(query, ${T - 1}u);
  let about = rows[(wid.z * ${heads}u + wid.y) * ${T}u + inside];
  let of_query = select(0, i32(about.z), query < ${T}u);
  let row = ((wid.z * ${T}u + inside) * ${heads}u + wid.y) * ${vectors}u;
  ${loadRow(problem, 'q_', 'q', 'row')}
  ${loadRow(problem, 'g_', 'g', 'row')}
  ${declareRow(problem, 'dq_')}
  let last = ${causal ? `min(${S}u, (wid.x + 1u) * ${lanes}u)` : `${S}u`};
  let first = ${window === undefined ? '0u' : `u32(max(i32(wid.x * ${lanes}u) - ${window - 1}, 0))`};
  for (var key = first; key < last; key++) {
    let key_row = ((wid.z * ${S}u + key) * ${kv_heads}u + wid.y / ${group}u) * ${vectors}u;
    let of_key = key_segments[wid.z * ${S}u + key];
    ${loadShare(problem, lanes, 'k_', 'k', 'key_row')}
    ${loadShare(problem, lanes, 'v_', 'v', 'key_row')}
    ${handRound(problem, subgroup, 'key_', 'k_')}
    ${dotProduct(problem, 's', 'q_', (c) => `key_${c}`)}
    ${dotProduct(problem, 'dp', 'g_', (c) => shared('v_', c, subgroup))}
    let seen = ${sees(problem, 'i32(query)', 'i32(key)', 'of_query', 'of_key')};
    let score = ${score(problem, 's')};
    let p = exp(select(-80.0, score - about.x, seen));
    let ds = select(0.0, p * (dp - about.y) * ${f32(scale)}${timesSlope(problem, 'score')}, seen);
    ${addRow(problem, 'dq_', 'ds', 'key_')}
  }
  if (query < ${T}u) {
    ${range(vectors)
      .map((c) => `dq[row + ${c}u] = dq_${c};`)
      .join(' ')}
  }
}`;
  return {
    label: `attention-query-gradient ${B}x${T} ${heads}/${kv_heads}·${problem.head_dim}`,
    bindings: [...gradientBindings(problem), { name: 'dq', operand: outputs[0]!, access: 'write', element }],
    code,
    workgroups: [Math.ceil(T / lanes), heads, B],
    subgroups: true,
  };
}

export function laneKeyValueGradient(problem: Problem, subgroup: Subgroup, outputs: readonly Operand[]): Dispatch {
  const { lanes } = subgroup;
  const { B, T, S, heads, kv_heads, group, vectors, element, scale, causal, window } = problem;
  const code = `${scoreWgsl(problem, 'f32')}${ENTRY(lanes)} {
  let key = wid.x * ${lanes}u + lane;
  let inside = min(key, ${S - 1}u);
  let of_key = select(0, key_segments[wid.z * ${S}u + inside], key < ${S}u);
  let row = ((wid.z * ${S}u + inside) * ${kv_heads}u + wid.y) * ${vectors}u;
  ${loadRow(problem, 'k_', 'k', 'row')}
  ${loadRow(problem, 'v_', 'v', 'row')}
  ${declareRow(problem, 'dk_')}
  ${declareRow(problem, 'dv_')}
  let first = ${causal ? `wid.x * ${lanes}u` : '0u'};
  let last = ${window === undefined ? `${T}u` : `min(${T}u, wid.x * ${lanes}u + ${lanes - 1 + window}u)`};
  for (var head = wid.y * ${group}u; head < wid.y * ${group}u + ${rolled(group, 'wid.y')}; head++) {
    for (var query = first; query < last; query++) {
      let query_row = ((wid.z * ${T}u + query) * ${heads}u + head) * ${vectors}u;
      let about = rows[(wid.z * ${heads}u + head) * ${T}u + query];
    ${loadShare(problem, lanes, 'q_', 'q', 'query_row')}
    ${loadShare(problem, lanes, 'g_', 'g', 'query_row')}
    ${handRound(problem, subgroup, 'query_', 'q_')}
    ${handRound(problem, subgroup, 'gradient_', 'g_')}
    ${dotProduct(problem, 's', 'k_', (c) => `query_${c}`)}
    ${dotProduct(problem, 'dp', 'v_', (c) => `gradient_${c}`)}
    let seen = ${sees(problem, 'i32(query)', 'i32(key)', 'i32(about.z)', 'of_key')};
    let score = ${score(problem, 's')};
    let p = select(0.0, exp(select(-80.0, score - about.x, seen)), seen);
    let ds = p * (dp - about.y) * ${f32(scale)}${timesSlope(problem, 'score')};
    ${addRow(problem, 'dv_', 'p', 'gradient_')}
    ${addRow(problem, 'dk_', 'ds', 'query_')}
    }
  }
  if (key < ${S}u) {
    ${range(vectors)
      .map((c) => `dk[row + ${c}u] = dk_${c}; dv[row + ${c}u] = dv_${c};`)
      .join(' ')}
  }
}`;
  return {
    label: `attention-dk-dv ${B}x${T} ${heads}/${kv_heads}·${problem.head_dim}`,
    bindings: [
      ...gradientBindings(problem),
      { name: 'dk', operand: outputs[0]!, access: 'write', element },
      { name: 'dv', operand: outputs[1]!, access: 'write', element },
    ],
    code,
    workgroups: [Math.ceil(S / lanes), kv_heads, B],
    subgroups: true,
  };
}
