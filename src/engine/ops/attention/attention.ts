/**
 * Softmax attention with grouped heads, a causal or sliding window, segments and an optional key-value cache, flash-style:
 * [queries × keys] never exists in memory (Dao et al. 2022, FlashAttention; Rabe & Staats 2021).
 *
 * Key j is visible to query i where
 *   key_segments[j] = query_segments[i] ≠ 0,
 *   j ≤ past_length + i (causal),  past_length + i − j < window,  j < past_length + T.
 * A query that sees nothing (padding) gives zeros. Besides the result the op gives lse = log Σ exp(score) [B, heads, T],
 * from which the backward pass makes the probabilities again:
 *   D = rowsum(g ∘ out);  dS = P ∘ (g Vᵀ − D);  dQ = scale · dS K;  dK = scale · dSᵀ Q;  dV = Pᵀ g
 * A score is scale · q·k, or with a `softcap` cap · tanh(scale · q·k / cap), as transformers' Gemma 2 has it (before the
 * mask); dS then holds one more factor, 1 − (score / cap)².
 * dQ goes by queries, dK and dV by keys, so that every sum has one owner and a fixed order.
 */
import {
  bytesOf,
  showType,
  sizeOf,
  type OpDefinition,
  type Tensor64,
  type TensorType,
  type Value,
} from '../../graph/types.ts';
import { flatGrid, rolled } from '../wgsl.ts';
import { keyValueGradientDispatches, queryGradientDispatch } from './backward.ts';
import { decodeDispatch } from './decode.ts';
import { forwardDispatch } from './forward.ts';
import { chooseLanes, laneForward, laneKeyValueGradient, laneQueryGradient } from './lanes.ts';
import { problemOf, type AttentionAttributes } from './problem.ts';

/** Up to this many queries a sequence, a row is a workgroup of its own: tiles of queries would be mostly empty. */
const DECODE_QUERIES = 4;

export const attentionOp: OpDefinition<AttentionAttributes> = {
  name: 'attention',
  exact: [1],

  infer([q, k, v, querySegments, keySegments, past], { heads, kv_heads, head_dim, softcap }) {
    const refuse = (what: string): never => {
      throw new RangeError(`attention: ${what}`);
    };
    const [B, T] = q!.shape;
    if (q!.shape.length !== 3 || q!.shape[2] !== heads * head_dim)
      refuse(`q ${showType(q!)} is not ${heads} heads of ${head_dim}`);
    if (k!.shape.length !== 3 || k!.shape[2] !== kv_heads * head_dim)
      refuse(`k ${showType(k!)} is not ${kv_heads} heads of ${head_dim}`);
    if (String(k!.shape) !== String(v!.shape)) refuse(`k ${showType(k!)} and v ${showType(v!)}`);
    if (heads % kv_heads !== 0) refuse(`${heads} heads over ${kv_heads} key-value heads`);
    if (String(querySegments!.shape) !== String([B, T]))
      refuse(`query segments ${showType(querySegments!)} for q ${showType(q!)}`);
    if (String(keySegments!.shape) !== String(k!.shape.slice(0, 2)))
      refuse(`key segments ${showType(keySegments!)} for k ${showType(k!)}`);
    if (softcap !== undefined && !(softcap > 0)) refuse(`a softcap of ${softcap}`);
    if (!past && k!.shape[1] !== T) refuse(`${k!.shape[1]} keys for ${T} queries and no past_length`);
    return [q!, { shape: [B!, heads, T!], dtype: 'f32' }];
  },

  cost([q, k, v], [out, lse], attributes) {
    const bytes = [q!, k!, v!, out!, lse!].reduce((sum, type) => sum + bytesOf(type), 0);
    const each = 4 * attributes.head_dim + capFlops(attributes);
    return { flops: pairs(q!, k!, attributes) * each, bytes };
  },

  gradient(node, [g, lseGradient], needed) {
    if (lseGradient) throw new RangeError('attention: lse has no gradient');
    const [q, k, v, querySegments, keySegments, past] = node.inputs as [Value, Value, Value, Value, Value, Value?];
    if (past) throw new RangeError('attention: no gradient through a key-value cache');
    const [out, lse] = node.outputs as [Value, Value];
    const { graph } = q;
    const rows = graph.apply(attentionRowsOp as OpDefinition, [g!, out, lse, querySegments], node.attributes)[0]!;
    const all = [q, k, v, keySegments, g!, rows];
    const dq = needed[0] ? graph.apply(attentionQueryGradientOp as OpDefinition, all, node.attributes)[0] : undefined;
    const [dk, dv] =
      needed[1] || needed[2] ? graph.apply(attentionKeyValueGradientOp as OpDefinition, all, node.attributes) : [];
    return [dq, dk, dv];
  },

  reference(inputs, attributes) {
    const { q, B, T, heads, d } = sizesOf(inputs, attributes);
    const out = new Float64Array(q.data.length);
    const lse = new Float64Array(B * heads * T);
    const mask = {
      querySegment: (b: number, i: number) => inputs[3]!.data[b * T + i]!,
      keySegments: inputs[4]!.data,
      pastLength: inputs[5]?.data[0] ?? 0,
    };
    forEachQuery(inputs, attributes, mask, ({ b, h, i, row, keys, scores, value }) => {
      const max = Math.max(...scores);
      const sum = scores.reduce((total, score) => total + Math.exp(score - max), 0);
      lse[(b * heads + h) * T + i] = max + Math.log(sum);
      keys.forEach((j, n) => {
        const p = Math.exp(scores[n]! - max) / sum;
        for (let c = 0; c < d; c++) out[row + c]! += p * value(j, c);
      });
    });
    return [
      { shape: q.shape, data: out },
      { shape: [B, heads, T], data: lse },
    ];
  },

  kernel({ inputs, outputs, attributes, limits }) {
    const problem = problemOf(inputs, attributes, inputs[5]);
    const lanes = chooseLanes(problem.head_dim, limits);
    if (lanes) return [laneForward(problem, lanes, outputs)];
    return [problem.T <= DECODE_QUERIES ? decodeDispatch(problem, outputs) : forwardDispatch(problem, outputs)];
  },
};

/**
 * What the backward pass knows of a query, [B, heads, T, 4]: lse, D = rowsum(g ∘ out), its segment, 0. One tensor, because a
 * kernel may bind eight buffers only. Inputs: g, out, lse, query segments.
 */
const attentionRowsOp: OpDefinition<AttentionAttributes> = {
  name: 'attention-rows',
  infer: ([, , lse]) => [{ shape: [...lse!.shape, 4], dtype: 'f32' }],
  cost: ([g, , lse], [rows]) => ({
    flops: 2 * sizeOf(g!.shape),
    bytes: 2 * bytesOf(g!) + bytesOf(lse!) + bytesOf(rows!),
  }),

  reference([g, out, lse, segments], { heads, head_dim: d }) {
    const [B, T] = g!.shape as [number, number];
    const data = new Float64Array(4 * B * heads * T);
    lse!.data.forEach((value, at) => {
      data[4 * at] = value;
      data[4 * at + 2] = segments!.data[Math.floor(at / (heads * T)) * T + (at % T)]!;
    });
    g!.data.forEach((value, at) => {
      const [row, h] = [Math.floor(at / (heads * d)), Math.floor(at / d) % heads];
      data[4 * ((Math.floor(row / T) * heads + h) * T + (row % T)) + 1]! += value * out!.data[at]!;
    });
    return [{ shape: [B, heads, T, 4], data }];
  },

  kernel({ inputs: [g, out, lse, segments], outputs: [rows], attributes: { heads, head_dim: d } }) {
    const [B, T] = g!.shape as [number, number];
    const grid = flatGrid(B * heads * T);
    const width = d % 4 === 0 ? 4 : 1;
    const element = width === 4 ? 'vec4<f32>' : 'f32';
    const product = width === 4 ? 'dot(g[start + c], attended[start + c])' : 'g[start + c] * attended[start + c]';
    return [
      {
        label: `attention-rows ${g!.shape.join('x')}`,
        bindings: [
          { name: 'g', operand: g!, access: 'read', element },
          { name: 'attended', operand: out!, access: 'read', element },
          { name: 'lse', operand: lse!, access: 'read' },
          { name: 'query_segments', operand: segments!, access: 'read' },
          { name: 'rows', operand: rows!, access: 'write', element: 'vec4<f32>' },
        ],
        code: `${grid.entry} {
  ${grid.index}
  let row = (i / ${heads * T}u) * ${T}u + i % ${T}u;
  let start = (row * ${heads}u + (i / ${T}u) % ${heads}u) * ${d / width}u;
  var sum = 0.0;
  for (var c = 0u; c < ${rolled(d / width, 'i')}; c++) { sum += ${product}; }
  rows[i] = vec4<f32>(lse[i], sum, f32(query_segments[row]), 0.0);
}`,
        workgroups: grid.workgroups,
      },
    ];
  },
};

/** Inputs of both gradients: q, k, v, key segments, g, rows. */
const attentionQueryGradientOp: OpDefinition<AttentionAttributes> = {
  name: 'attention-query-gradient',
  infer: ([q]) => [q!],
  cost: (inputs, outputs, attributes) => ({
    flops: pairs(inputs[0]!, inputs[1]!, attributes) * (6 * attributes.head_dim + capFlops(attributes)),
    bytes: [...inputs, ...outputs].reduce((sum, type) => sum + bytesOf(type), 0),
  }),
  reference: (inputs, attributes) => [referenceGradients(inputs, attributes)[0]],
  kernel({ inputs, outputs, attributes, limits }) {
    const problem = problemOf(inputs, attributes);
    const lanes = chooseLanes(problem.head_dim, limits);
    return [lanes ? laneQueryGradient(problem, lanes, outputs) : queryGradientDispatch(problem, outputs)];
  },
};

const attentionKeyValueGradientOp: OpDefinition<AttentionAttributes> = {
  name: 'attention-key-value-gradient',
  infer: ([, k, v]) => [k!, v!],
  cost: (inputs, outputs, attributes) => ({
    flops: pairs(inputs[0]!, inputs[1]!, attributes) * (8 * attributes.head_dim + capFlops(attributes)),
    bytes: [...inputs, ...outputs].reduce((sum, type) => sum + bytesOf(type), 0),
  }),
  reference: (inputs, attributes) => referenceGradients(inputs, attributes).slice(1),
  kernel({ inputs, outputs, attributes, limits }) {
    const problem = problemOf(inputs, attributes);
    const lanes = chooseLanes(problem.head_dim, limits);
    return lanes ? [laneKeyValueGradient(problem, lanes, outputs)] : keyValueGradientDispatches(problem, outputs);
  },
};

/** Query-key pairs that are multiplied: half of them where causal. */
function pairs(q: TensorType, k: TensorType, { heads, causal }: AttentionAttributes): number {
  const [B, T, S] = [sizeOf(q.shape.slice(0, 1)), sizeOf(q.shape.slice(1, 2)), sizeOf(k.shape.slice(1, 2))];
  return B * heads * T * (causal && T === S ? (S + 1) / 2 : S);
}

/** About what a tanh and its slope take. */
const capFlops = ({ softcap }: AttentionAttributes): number => (softcap === undefined ? 0 : 16);

function sizesOf(inputs: readonly Tensor64[], { heads, kv_heads, head_dim }: AttentionAttributes) {
  const [q, k, v] = inputs as [Tensor64, Tensor64, Tensor64];
  const [B, T] = q.shape as [number, number];
  return { q, k, v, B, T, S: k.shape[1]!, heads, d: head_dim, kv: kv_heads };
}

interface SeenQuery {
  readonly b: number;
  readonly h: number;
  readonly i: number;
  /** Where this query's head starts in q, and key j's head in k and v. */
  readonly row: number;
  readonly keyRow: (j: number) => number;
  /** Visible keys, the score of each and its derivative by scale · q·k. */
  readonly keys: readonly number[];
  readonly scores: readonly number[];
  readonly slopes: readonly number[];
  readonly value: (j: number, c: number) => number;
}

/** Calls `visit` for every query that sees at least one key. */
function forEachQuery(
  inputs: readonly Tensor64[],
  attributes: AttentionAttributes,
  mask: { querySegment: (b: number, i: number) => number; keySegments: Float64Array; pastLength: number },
  visit: (query: SeenQuery) => void,
): void {
  const { q, k, v, B, T, S, heads, d, kv } = sizesOf(inputs, attributes);
  const { querySegment, keySegments, pastLength } = mask;
  for (let b = 0; b < B; b++)
    for (let h = 0; h < heads; h++)
      for (let i = 0; i < T; i++) {
        const row = ((b * T + i) * heads + h) * d;
        const keyRow = (j: number): number => ((b * S + j) * kv + Math.floor((h * kv) / heads)) * d;
        const keys: number[] = [];
        for (let j = 0; j < S; j++) {
          const segment = keySegments[b * S + j]!;
          const behind = pastLength + i - j;
          const seen =
            segment !== 0 &&
            segment === querySegment(b, i) &&
            j < pastLength + T &&
            (!attributes.causal || behind >= 0) &&
            (attributes.window === undefined || behind < attributes.window);
          if (seen) keys.push(j);
        }
        if (keys.length === 0) continue;
        const products = keys.map((j) => {
          let sum = 0;
          for (let c = 0; c < d; c++) sum += q.data[row + c]! * k.data[keyRow(j) + c]!;
          return attributes.scale * sum;
        });
        const { softcap } = attributes;
        const bent = products.map((x) => (softcap === undefined ? 0 : Math.tanh(x / softcap)));
        const scores = softcap === undefined ? products : bent.map((t) => softcap * t);
        const slopes = bent.map((t) => 1 - t * t);
        visit({ b, h, i, row, keyRow, keys, scores, slopes, value: (j, c) => v.data[keyRow(j) + c]! });
      }
}

function referenceGradients(
  inputs: readonly Tensor64[],
  attributes: AttentionAttributes,
): [Tensor64, Tensor64, Tensor64] {
  const { q, k, v, T, heads, d } = sizesOf(inputs, attributes);
  const [g, rows] = [inputs[4]!.data, inputs[5]!.data];
  const zeros = ({ shape, data }: Tensor64): Tensor64 => ({ shape, data: new Float64Array(data.length) });
  const [dq, dk, dv] = [zeros(q), zeros(k), zeros(v)];
  const visit = ({ b, h, i, row, keyRow, keys, scores, slopes }: SeenQuery): void => {
    const at = 4 * ((b * heads + h) * T + i);
    keys.forEach((j, n) => {
      const key = keyRow(j);
      const p = Math.exp(scores[n]! - rows[at]!);
      let dp = 0;
      for (let c = 0; c < d; c++) dp += g[row + c]! * v.data[key + c]!;
      const ds = attributes.scale * slopes[n]! * p * (dp - rows[at + 1]!);
      for (let c = 0; c < d; c++) {
        dq.data[row + c]! += ds * k.data[key + c]!;
        dk.data[key + c]! += ds * q.data[row + c]!;
        dv.data[key + c]! += p * g[row + c]!;
      }
    });
  };
  const mask = {
    querySegment: (b: number, i: number) => rows[4 * (b * heads * T + i) + 2]!,
    keySegments: inputs[3]!.data,
    pastLength: 0,
  };
  forEachQuery(inputs, attributes, mask, visit);
  return [dq, dk, dv];
}

export interface AttentionOptions {
  readonly heads: number;
  readonly kv_heads: number;
  readonly head_dim: number;
  /** Multiplies q·k; 1/√head_dim as a rule. */
  readonly scale: number;
  readonly causal: boolean;
  /** How many keys back a query sees, itself included; undefined: all. */
  readonly window?: number;
  /** Bounds the scores: cap · tanh(score / cap). */
  readonly softcap?: number;
}

/**
 * @param q [B, T, heads·head_dim]
 * @param k, v [B, S, kv_heads·head_dim]; S = T, or the capacity of a cache whose first past_length + T rows are filled
 * @param querySegments i32 [B, T], keySegments i32 [B, S]; 0 is padding
 * @param pastLength i32 [1]
 * @returns out [B, T, heads·head_dim] and lse [B, heads, T]
 */
export function attention(
  q: Value,
  k: Value,
  v: Value,
  querySegments: Value,
  keySegments: Value,
  options: AttentionOptions,
  pastLength?: Value,
): readonly [Value, Value] {
  const inputs = [q, k, v, querySegments, keySegments, ...(pastLength ? [pastLength] : [])];
  const [out, lse] = q.graph.apply(attentionOp as OpDefinition, inputs, { ...options });
  return [out!, lse!];
}
