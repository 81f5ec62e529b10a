/**
 * Attention for adapters that compute on the CPU (see matmul/lanes.ts: there loads count, not multiplications, and barriers
 * take many seconds to compile). A workgroup is one subgroup; each lane owns a query (forward, dQ) or a key (dK and dV), whole
 * rows in registers. The rows of the other side are walked one by one: the lanes load a row together, each its share, and
 * `subgroupBroadcast` hands it round, so a multiply-add costs 1/8 load forward and 1/16 backward with eight lanes. No
 * workgroup memory, no barriers; a causal mask wastes half a subgroup at most, not half a tile. Where loads and broadcasts
 * are dearer than memory on the stack a lane owns two rows, so that a row is loaded and handed round once for both.
 */
import type { Dispatch, KernelLimits, Operand } from '../../graph/types.ts';
import { f32, rolled } from '../wgsl.ts';
import { gradientBindings, inputBindings, range, score, scoreWgsl, timesSlope, type Problem } from './problem.ts';

const CPU_LANES = [4, 8];
/** Rows longer than this would not stay in registers and caches. */
const LONGEST_HEAD = 128;
/** Two rows of more than this keep SwiftShader's compiler longer than they save: all three kernels by 2 of 64 take it 3 s. */
const LONGEST_DOUBLE = 64;

export interface Subgroup {
  readonly lanes: number;
  /** Of four lanes a quad is all, and SwiftShader has one instruction for it, llvmpipe five times the work. */
  readonly broadcast: 'subgroupBroadcast' | 'quadBroadcast';
  /** Rows a lane owns, at most. */
  readonly most: number;
}

/** No lane owns two rows while another has none. */
const ownedOf = ({ lanes, most }: Subgroup, rows: number): number =>
  Math.max(1, Math.min(most, Math.floor(rows / lanes)));

/** undefined where this variant is not for the device or the head. */
export function chooseLanes(
  head_dim: number,
  { subgroupSize: lanes, architecture }: Pick<KernelLimits, 'subgroupSize' | 'architecture'>,
): Subgroup | undefined {
  if (lanes === undefined || !CPU_LANES.includes(lanes) || head_dim > LONGEST_HEAD) return undefined;
  return architecture === 'swiftshader' && lanes === 4
    ? { lanes, broadcast: 'quadBroadcast', most: head_dim > LONGEST_DOUBLE ? 1 : 2 }
    : { lanes, broadcast: 'subgroupBroadcast', most: 1 };
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

/** Declares `name`0 ..: the row that is handed round, once for all that read it: SwiftShader's compiler would do it again. */
const handRound = (problem: Problem, subgroup: Subgroup, name: string, share: string): string =>
  range(problem.vectors)
    .map((c) => `let ${name}${c} = ${shared(share, c, subgroup)};`)
    .join('\n    ');

/** Statements for each row that a lane owns. */
const each = (owned: number, statements: (r: number) => string): string => range(owned).map(statements).join('\n  ');

interface Product {
  readonly name: string;
  readonly own: string;
}

/** Of each row that a lane owns. */
const products = (owned: number, name: string, own: string): Product[] =>
  range(owned).map((r) => ({ name: `${name}${r}`, own: `${own}${r}_` }));

/** Declares the `name` of each product: that of the row `own`0 .. with the row `handed`0 .. */
function dotProducts(problem: Problem, wanted: readonly Product[], handed: string): string {
  const { vectors, element, width } = problem;
  return wanted
    .map(({ name, own }) => {
      const sum = [
        '',
        `${name}_v`,
        `${name}_v.x + ${name}_v.y`,
        '',
        `(${name}_v.x + ${name}_v.y) + (${name}_v.z + ${name}_v.w)`,
      ];
      return `var ${name}_v = ${element}();
    ${range(vectors)
      .map((c) => `${name}_v = fma(${own}${c}, ${handed}${c}, ${name}_v);`)
      .join('\n    ')}
    let ${name} = ${sum[width]};`;
    })
    .join('\n    ');
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
  const owned = ownedOf(subgroup, T);
  const queries = lanes * owned;

  // two keys a round share one rescaling of the result
  const round = range(2)
    .map(
      (n) => `let key_${n} = min(first_key + ${n}u, ${S - 1}u);
    let of_key_${n} = select(0, key_segments[wid.z * ${S}u + key_${n}], first_key + ${n}u < last);
    let row_${n} = ${keyRow(`key_${n}`)};
    ${loadShare(problem, lanes, `k${n}_`, 'k', `row_${n}`)}
    ${loadShare(problem, lanes, `v${n}_`, 'v', `row_${n}`)}
    ${handRound(problem, subgroup, `key${n}_`, `k${n}_`)}
    ${handRound(problem, subgroup, `value${n}_`, `v${n}_`)}
    ${dotProducts(
      problem,
      range(owned).map((r) => ({ name: `dot${r}_${n}`, own: `q${r}_` })),
      `key${n}_`,
    )}
    ${each(
      owned,
      (
        r,
      ) => `let seen${r}_${n} = ${sees(problem, `i32(query_${r}) + past`, `i32(key_${n})`, `of_query_${r}`, `of_key_${n}`)};
    let s${r}_${n} = select(-1e30, ${score(problem, `dot${r}_${n}`)}, seen${r}_${n});`,
    )}`,
    )
    .join('\n    ');

  const code = `${scoreWgsl(problem, 'f32')}${ENTRY(lanes)} {
  let past = ${past ? 'past_length[0]' : '0'};
  ${each(
    owned,
    (r) => `let query_${r} = wid.x * ${queries}u + ${r * lanes}u + lane;
  let inside_${r} = min(query_${r}, ${T - 1}u);
  let of_query_${r} = select(0, query_segments[wid.z * ${T}u + inside_${r}], query_${r} < ${T}u);
  let row${r} = ((wid.z * ${T}u + inside_${r}) * ${heads}u + wid.y) * ${vectors}u;
  ${loadRow(problem, `q${r}_`, 'q', `row${r}`)}
  ${declareRow(problem, `o${r}_`)}
  var running_max_${r} = -1e30;
  var running_sum_${r} = 0.0;`,
  )}
  let keys = ${past ? `min(u32(past) + ${T}u, ${S}u)` : `${S}u`};
  let last = ${causal ? `min(keys, ${past ? 'u32(past) + ' : ''}(wid.x + 1u) * ${queries}u)` : 'keys'};
  let first = ${window === undefined ? '0u' : `u32(max(${past ? 'past + ' : ''}i32(wid.x * ${queries}u) - ${window - 1}, 0))`};
  for (var first_key = first; first_key < last; first_key += 2u) {
    ${round}
    ${each(
      owned,
      (r) => `let new_max_${r} = max(running_max_${r}, max(s${r}_0, s${r}_1));
    let factor_${r} = exp(max(running_max_${r} - new_max_${r}, -80.0));
    let p${r}_0 = select(0.0, exp(s${r}_0 - new_max_${r}), seen${r}_0);
    let p${r}_1 = select(0.0, exp(s${r}_1 - new_max_${r}), seen${r}_1);
    running_sum_${r} = running_sum_${r} * factor_${r} + p${r}_0 + p${r}_1;
    running_max_${r} = new_max_${r};
    ${range(vectors)
      .map(
        (c) =>
          `o${r}_${c} = fma(${vector(problem, `p${r}_1`)}, value1_${c}, fma(${vector(problem, `p${r}_0`)}, value0_${c}, o${r}_${c} * factor_${r}));`,
      )
      .join('\n    ')}`,
    )}
  }
  ${each(
    owned,
    (r) => `if (query_${r} < ${T}u) {
    let share = select(0.0, 1.0 / running_sum_${r}, running_sum_${r} > 0.0);
    ${range(vectors)
      .map((c) => `attended[row${r} + ${c}u] = o${r}_${c} * share;`)
      .join(' ')}
    lse[(wid.z * ${heads}u + wid.y) * ${T}u + query_${r}] = select(0.0, running_max_${r} + log(max(running_sum_${r}, 1e-30)), running_sum_${r} > 0.0);
  }`,
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
    workgroups: [Math.ceil(T / queries), heads, B],
    subgroups: true,
  };
}

export function laneQueryGradient(problem: Problem, subgroup: Subgroup, outputs: readonly Operand[]): Dispatch {
  const { lanes } = subgroup;
  const { B, T, S, heads, kv_heads, group, vectors, element, scale, causal, window } = problem;
  const owned = ownedOf(subgroup, T);
  const queries = lanes * owned;
  const code = `${scoreWgsl(problem, 'f32')}${ENTRY(lanes)} {
  ${each(
    owned,
    (r) => `let query_${r} = wid.x * ${queries}u + ${r * lanes}u + lane;
  let inside_${r} = min(query_${r}, ${T - 1}u);
  let about_${r} = rows[(wid.z * ${heads}u + wid.y) * ${T}u + inside_${r}];
  let of_query_${r} = select(0, i32(about_${r}.z), query_${r} < ${T}u);
  let row${r} = ((wid.z * ${T}u + inside_${r}) * ${heads}u + wid.y) * ${vectors}u;
  ${loadRow(problem, `q${r}_`, 'q', `row${r}`)}
  ${loadRow(problem, `g${r}_`, 'g', `row${r}`)}
  ${declareRow(problem, `dq${r}_`)}`,
  )}
  let last = ${causal ? `min(${S}u, (wid.x + 1u) * ${queries}u)` : `${S}u`};
  let first = ${window === undefined ? '0u' : `u32(max(i32(wid.x * ${queries}u) - ${window - 1}, 0))`};
  for (var key = first; key < last; key++) {
    let key_row = ((wid.z * ${S}u + key) * ${kv_heads}u + wid.y / ${group}u) * ${vectors}u;
    let of_key = key_segments[wid.z * ${S}u + key];
    ${loadShare(problem, lanes, 'k_', 'k', 'key_row')}
    ${loadShare(problem, lanes, 'v_', 'v', 'key_row')}
    ${handRound(problem, subgroup, 'key_', 'k_')}
    ${handRound(problem, subgroup, 'value_', 'v_')}
    ${dotProducts(problem, products(owned, 's', 'q'), 'key_')}
    ${dotProducts(problem, products(owned, 'dp', 'g'), 'value_')}
    ${each(
      owned,
      (r) => `let seen_${r} = ${sees(problem, `i32(query_${r})`, 'i32(key)', `of_query_${r}`, 'of_key')};
    let score_${r} = ${score(problem, `s${r}`)};
    let p_${r} = exp(select(-80.0, score_${r} - about_${r}.x, seen_${r}));
    let ds_${r} = select(0.0, p_${r} * (dp${r} - about_${r}.y) * ${f32(scale)}${timesSlope(problem, `score_${r}`)}, seen_${r});
    ${addRow(problem, `dq${r}_`, `ds_${r}`, 'key_')}`,
    )}
  }
  ${each(
    owned,
    (r) => `if (query_${r} < ${T}u) {
    ${range(vectors)
      .map((c) => `dq[row${r} + ${c}u] = dq${r}_${c};`)
      .join(' ')}
  }`,
  )}
}`;
  return {
    label: `attention-query-gradient ${B}x${T} ${heads}/${kv_heads}·${problem.head_dim}`,
    bindings: [...gradientBindings(problem), { name: 'dq', operand: outputs[0]!, access: 'write', element }],
    code,
    workgroups: [Math.ceil(T / queries), heads, B],
    subgroups: true,
  };
}

export function laneKeyValueGradient(problem: Problem, subgroup: Subgroup, outputs: readonly Operand[]): Dispatch {
  const { lanes } = subgroup;
  const { B, T, S, heads, kv_heads, group, vectors, element, scale, causal, window } = problem;
  const owned = ownedOf(subgroup, S);
  const keys = lanes * owned;
  const code = `${scoreWgsl(problem, 'f32')}${ENTRY(lanes)} {
  ${each(
    owned,
    (r) => `let key_${r} = wid.x * ${keys}u + ${r * lanes}u + lane;
  let inside_${r} = min(key_${r}, ${S - 1}u);
  let of_key_${r} = select(0, key_segments[wid.z * ${S}u + inside_${r}], key_${r} < ${S}u);
  let row${r} = ((wid.z * ${S}u + inside_${r}) * ${kv_heads}u + wid.y) * ${vectors}u;
  ${loadRow(problem, `k${r}_`, 'k', `row${r}`)}
  ${loadRow(problem, `v${r}_`, 'v', `row${r}`)}
  ${declareRow(problem, `dk${r}_`)}
  ${declareRow(problem, `dv${r}_`)}`,
  )}
  let first = ${causal ? `wid.x * ${keys}u` : '0u'};
  let last = ${window === undefined ? `${T}u` : `min(${T}u, wid.x * ${keys}u + ${keys - 1 + window}u)`};
  for (var head = wid.y * ${group}u; head < wid.y * ${group}u + ${rolled(group, 'wid.y')}; head++) {
    for (var query = first; query < last; query++) {
      let query_row = ((wid.z * ${T}u + query) * ${heads}u + head) * ${vectors}u;
      let about = rows[(wid.z * ${heads}u + head) * ${T}u + query];
    ${loadShare(problem, lanes, 'q_', 'q', 'query_row')}
    ${loadShare(problem, lanes, 'g_', 'g', 'query_row')}
    ${handRound(problem, subgroup, 'query_', 'q_')}
    ${handRound(problem, subgroup, 'gradient_', 'g_')}
    ${dotProducts(problem, products(owned, 's', 'k'), 'query_')}
    ${dotProducts(problem, products(owned, 'dp', 'v'), 'gradient_')}
    ${each(
      owned,
      (r) => `let seen_${r} = ${sees(problem, 'i32(query)', `i32(key_${r})`, 'i32(about.z)', `of_key_${r}`)};
    let score_${r} = ${score(problem, `s${r}`)};
    let p_${r} = select(0.0, exp(select(-80.0, score_${r} - about.x, seen_${r})), seen_${r});
    let ds_${r} = p_${r} * (dp${r} - about.y) * ${f32(scale)}${timesSlope(problem, `score_${r}`)};
    ${addRow(problem, `dv${r}_`, `p_${r}`, 'gradient_')}
    ${addRow(problem, `dk${r}_`, `ds_${r}`, 'query_')}`,
    )}
    }
  }
  ${each(
    owned,
    (r) => `if (key_${r} < ${S}u) {
    ${range(vectors)
      .map((c) => `dk[row${r} + ${c}u] = dk${r}_${c}; dv[row${r} + ${c}u] = dv${r}_${c};`)
      .join(' ')}
  }`,
  )}
}`;
  return {
    label: `attention-dk-dv ${B}x${T} ${heads}/${kv_heads}·${problem.head_dim}`,
    bindings: [
      ...gradientBindings(problem),
      { name: 'dk', operand: outputs[0]!, access: 'write', element },
      { name: 'dv', operand: outputs[1]!, access: 'write', element },
    ],
    code,
    workgroups: [Math.ceil(S / keys), kv_heads, B],
    subgroups: true,
  };
}
