/**
 * Grids of more than 65,535 workgroups, which no dimension of a dispatch may have: every op that can come to one, forward and
 * backward. linear-loss, linear-topk and pack do in their own tests, the matmul's variants in matmul/variants.test.ts. sum-all
 * and sum-squares have grids of a fixed size; those of attention's tiles and of its decoding are [tiles, heads, batch], with
 * nothing folded.
 */
import { describe, it } from 'vitest';
import { gradients } from '../graph/autodiff.ts';
import type { Graph } from '../graph/graph.ts';
import type { Value } from '../graph/types.ts';
import { checkKernel, floats, integers, type OpCase, type OpInput } from '../testing.ts';
import { embeddingGradient } from './embedding/embedding.ts';
import {
  accumulate,
  activation,
  adafactor,
  adamw,
  adamw8bit,
  add,
  addScaled,
  attention,
  concat,
  dropout,
  embedding,
  fill,
  hiddenLoss,
  inverseNorms,
  kvAppend,
  lastRow,
  layernorm,
  lion,
  matmul,
  mul,
  positions,
  rmsnorm,
  rotary,
  scale,
  scaleBy,
  scaleRows,
  sgd,
  siluMul,
  softcap,
  split,
  sumLeading,
  takeRows,
} from './index.ts';

/** One thread each are more than 65,535 workgroups of 64; rows of seven. */
const ROWS = 599_179;
const MANY = 7 * ROWS;
/** Eight threads each. */
const NORMED = 524_300;
const hyper = { shape: [8], data: Float32Array.of(1e-2, 0.9, 0.999, 1e-8, 0.1, 0.1, 0.001, 0.5) };
const norm = { shape: [1], data: Float32Array.of(4) };
const positive = (shape: readonly number[], n: number): OpInput => ({
  shape,
  data: floats(shape, n).data.map((value) => Math.abs(value) + 0.1) as Float32Array,
});
const squares = positive([MANY], 3);
const ids = integers(
  [1, ROWS],
  Array.from({ length: ROWS }, (_, i) => (i * i) % 5),
);
/** Sums of these are exact. */
const wholes: OpInput = { shape: [1, MANY, 1], data: Float32Array.from({ length: MANY }, (_, i) => (i % 3) - 1) };
const seed = integers([2], [3, 4]);

/** What `out` gives `wrt` for the gradient `g`. */
function backward(out: Value, g: Value, wrt: readonly Value[]): Value[] {
  const found = gradients(out.graph as Graph, out, g, wrt);
  return wrt.map((value) => found.get(value)!);
}

function attending({ B, T, ...heads }: { B: number; T: number; heads: number; kv_heads: number; head_dim: number }): {
  inputs: OpInput[];
  run: (values: readonly Value[]) => Value;
} {
  const width = heads.kv_heads * heads.head_dim;
  const segments: OpInput = { shape: [B, T], data: new Int32Array(B * T).fill(1) };
  return {
    inputs: [
      floats([B, T, heads.heads * heads.head_dim], 1, 2),
      floats([B, T, width], 2, 2),
      floats([B, T, width], 3),
      segments,
      segments,
    ],
    run: ([q, k, v, qs, ks]) => attention(q!, k!, v!, qs!, ks!, { ...heads, scale: 0.5, causal: true })[0],
  };
}
const small = attending({ B: 8200, T: 2, heads: 8, kv_heads: 2, head_dim: 4 });
const thin = attending({ B: 8200, T: 8, heads: 64, kv_heads: 64, head_dim: 1 });

/** 17 blocks of 256 over and over: so few different numbers that float64 and f32 never differ in which code is nearest. */
const CODED = 65_540 * 256 + 3;
function repeated(length: number, { data }: OpInput): OpInput {
  const repeats = data instanceof Int32Array ? new Int32Array(length) : new Float32Array(length);
  for (let i = 0; i < length; i++) repeats[i] = data[i % data.length]!;
  return { shape: [length], data: repeats };
}
const codes = (n: number): OpInput =>
  repeated(Math.ceil(CODED / 4), {
    shape: [17 * 64],
    data: Int32Array.from(floats([17 * 64], n).data, (value) => Math.floor(value * 2 ** 31)),
  });

const cases: Readonly<Record<string, OpCase>> = {
  add: { inputs: [floats([ROWS, 7], 1), floats([7], 2)], build: add, tolerance: 2e-7 },
  mul: { inputs: [floats([ROWS, 7], 1), floats([7], 2)], build: mul, tolerance: 2e-7 },
  'silu-mul': { inputs: [floats([MANY], 1), floats([MANY], 2)], build: siluMul, tolerance: 1e-6 },
  activation: { inputs: [floats([MANY], 1)], build: (x) => activation(x, 'relu'), tolerance: 0 },
  fill: { inputs: [floats([1], 1)], build: (x) => fill(x, [ROWS, 7]), tolerance: 0 },
  'take-rows': { inputs: [floats([ROWS + 2, 7], 1)], build: (x) => takeRows(x, 2, ROWS), tolerance: 0 },
  'split and concat': { inputs: [floats([ROWS, 8], 1)], build: (x) => concat(split(x, [1, 7])), tolerance: 0 },
  embedding: {
    inputs: [floats([5, 7], 1), ids],
    build: embedding,
    tolerance: 0,
  },
  rmsnorm: {
    inputs: [floats([NORMED, 4], 1), floats([4], 2)],
    build: (x, w) => rmsnorm(x, w, { eps: 1e-5 }),
    tolerance: 2e-6,
  },
  layernorm: {
    inputs: [floats([NORMED, 4], 1), floats([4], 2), floats([4], 3)],
    build: (x, w, b) => layernorm(x, w, b, { eps: 1e-2 }),
    tolerance: 2e-6,
  },
  accumulate: {
    inputs: [floats([MANY], 1), floats([MANY], 2), { shape: [2], data: Float32Array.of(1, 0.5) }],
    states: [0],
    build: accumulate,
    tolerance: 2e-7,
  },
  adamw: {
    inputs: [floats([MANY], 1), floats([MANY], 2), squares, floats([MANY], 4), hyper, norm],
    states: [0, 1, 2],
    build: (p, m, v, g, h, n) => adamw(p!, m!, v!, g!, h!, n!, { decay: true }),
    tolerance: 2e-6,
  },
  lion: {
    inputs: [floats([MANY], 1), floats([MANY], 2), floats([MANY], 4), hyper, norm],
    states: [0, 1],
    build: (p, m, g, h, n) => lion(p!, m!, g!, h!, n!, { decay: true }),
    tolerance: 2e-6,
  },
  sgd: {
    inputs: [floats([MANY], 1), floats([MANY], 2), floats([MANY], 4), hyper, norm],
    states: [0, 1],
    build: (p, m, g, h, n) => sgd(p!, m!, g!, h!, n!, { decay: true }),
    tolerance: 2e-6,
  },
  'adamw, 8 bits': {
    inputs: [
      repeated(CODED, floats([17 * 256], 5)),
      codes(2),
      codes(3),
      repeated(2 * Math.ceil(CODED / 256), positive([17], 6)),
      repeated(CODED, floats([17 * 256], 4)),
      hyper,
      norm,
    ],
    states: [0, 1, 2, 3],
    build: (p, m, v, absmax, g, h, n) => adamw8bit(p!, [m!, v!, absmax!], g!, h!, n!, { decay: true }),
    tolerance: 2e-6,
  },
  // a mean of n positive numbers, added up in runs: √n roundings of 2^-24 or less
  adafactor: {
    inputs: [floats([MANY, 2], 1), squares, positive([2], 3), floats([MANY, 2], 4), hyper, norm],
    states: [0, 1, 2],
    build: (p, row, column, g, h, n) => adafactor(p!, [row!, column!], g!, h!, n!, { decay: true }),
    tolerance: 1e-4,
  },
  'adafactor of a vector': {
    inputs: [floats([MANY], 1), squares, floats([MANY], 4), hyper, norm],
    states: [0, 1],
    build: (p, v, g, h, n) => adafactor(p!, [v!], g!, h!, n!, { decay: true }),
    tolerance: 1e-5,
  },
  dropout: {
    inputs: [floats([4 * MANY + 1], 1), seed],
    build: (x, seed) => dropout(x!, seed!, { p: 0.3, site: 2 }),
    tolerance: 1e-7,
  },
  scale: { inputs: [floats([MANY], 1)], build: (x) => scale(x!, 0.3), tolerance: 1e-7 },
  'scale by': { inputs: [floats([MANY], 1), floats([1], 2)], build: scaleBy, tolerance: 1e-7 },
  'scale rows': { inputs: [floats([ROWS, 7], 1), floats([ROWS], 2)], build: scaleRows, tolerance: 1e-7 },
  'gradient of scale rows': {
    inputs: [floats([MANY, 1], 1), floats([MANY], 2), floats([MANY, 1], 3)],
    build: (a, s, g) => backward(scaleRows(a!, s!), g!, [a!, s!]),
    tolerance: 1e-7,
  },
  'add scaled': {
    inputs: [floats([MANY], 1), floats([MANY], 2)],
    build: (a, b) => addScaled(a!, b!, 0.3),
    tolerance: 2e-7,
  },
  softcap: { inputs: [floats([MANY], 1)], build: (x) => softcap(x!, 0.7), tolerance: 1e-6 },
  positions: { inputs: [{ shape: [ROWS, 7], data: new Int32Array(MANY) }], build: positions, tolerance: 0 },
  'last row': { inputs: [floats([ROWS, 2, 7], 1)], build: lastRow, tolerance: 0 },
  'kv append': {
    inputs: [floats([3, 200_003, 7], 1), floats([3, 200_001, 7], 2), integers([1], [1])],
    states: [0],
    build: kvAppend,
    tolerance: 0,
  },
  rotary: {
    inputs: [
      floats([1, 1_050_001, 6], 1),
      floats([5, 1], 2),
      floats([5, 1], 3),
      integers(
        [1, 1_050_001],
        Array.from({ length: 1_050_001 }, (_, i) => i % 5),
      ),
    ],
    build: (x, cos, sin, positions) => rotary(x!, cos!, sin!, positions!, { head_dim: 3 }),
    tolerance: 3e-7,
  },
  'sum over rows': {
    inputs: [floats([64, 65_601], 1)],
    build: (x) => sumLeading(x!, 1),
    tolerance: 1e-6,
  },
  'sum over two rows': { inputs: [floats([2, MANY], 1)], build: (x) => sumLeading(x!, 1), tolerance: 1e-7 },
  'inverse norms of rows': {
    inputs: [positive([MANY, 1], 1), floats([MANY, 1], 2)],
    build: (w, delta) => inverseNorms(w!, delta!, { scaling: 0.05, columns: false }),
    tolerance: 1e-6,
  },
  'inverse norms of columns': {
    inputs: [positive([1, MANY], 1), floats([1, MANY], 2)],
    build: (w, delta) => inverseNorms(w!, delta!, { scaling: 0.05, columns: true }),
    tolerance: 1e-6,
  },
  // 64 runs of 65,536 positive terms: √65,536 roundings of a partial sum, 2^-24 each
  'mean squares of hidden states': {
    inputs: [floats([MANY, 1], 1), floats([MANY, 1], 2), squares],
    build: (s, t, weights) => hiddenLoss(s!, t!, weights!, 'mse'),
    tolerance: 3e-5,
  },
  'cosine of hidden states': {
    inputs: [floats([NORMED, 4], 1), floats([NORMED, 4], 2), positive([NORMED], 3)],
    build: (s, t, weights) => hiddenLoss(s!, t!, weights!, 'cosine'),
    tolerance: 3e-5,
  },
  'gradient of mean squares': {
    inputs: [floats([MANY, 1], 1), floats([MANY, 1], 2), squares, floats([1], 4)],
    build: (s, t, weights, g) => backward(hiddenLoss(s!, t!, weights!, 'mse'), g!, [s!, t!]),
    tolerance: 1e-6,
  },
  'gradient of a cosine': {
    inputs: [positive([NORMED, 4], 1), positive([NORMED, 4], 2), positive([NORMED], 3), floats([1], 4)],
    build: (s, t, weights, g) => backward(hiddenLoss(s!, t!, weights!, 'cosine'), g!, [s!, t!]),
    tolerance: 2e-6,
  },
  'gradient of silu-mul': {
    inputs: [floats([MANY], 1), floats([MANY], 2), floats([MANY], 3)],
    build: (gate, up, g) => backward(siluMul(gate!, up!), g!, [gate!, up!]),
    tolerance: 1e-6,
  },
  'gradient of an activation': {
    inputs: [floats([MANY], 1), floats([MANY], 2)],
    build: (x, g) => backward(activation(x!, 'gelu'), g!, [x!]),
    tolerance: 1e-6,
  },
  // a column's sum: 64 runs of 8,192 terms of either sign
  'gradient of rmsnorm': {
    inputs: [floats([NORMED, 4], 1), floats([4], 2), floats([NORMED, 4], 3)],
    build: (x, w, g) => backward(rmsnorm(x!, w!, { eps: 1e-2 }), g!, [x!, w!]),
    tolerance: 1e-5,
  },
  'gradient of layernorm': {
    inputs: [floats([NORMED, 4], 1), floats([4], 2), floats([4], 3), floats([NORMED, 4], 4)],
    build: (x, w, b, g) => backward(layernorm(x!, w!, b!, { eps: 1e-1 }), g!, [x!, w!, b!]),
    tolerance: 1e-5,
  },
  'gradient of an embedding, wide': {
    inputs: [integers([1, 6], [0, 3, 1, 3, 3, 0]), floats([1, 6, ROWS + 100_002], 1)],
    build: (ids, g) => embeddingGradient(ids!, g!, 7),
    tolerance: 2e-7,
  },
  'gradient of an embedding, many ids': {
    inputs: [{ shape: [1, MANY], data: Int32Array.from({ length: MANY }, (_, i) => (i * i) % 5) }, wholes],
    build: (ids, g) => embeddingGradient(ids!, g!, 5),
    tolerance: 0,
  },
  attention: { inputs: small.inputs, build: (...values) => small.run(values), tolerance: 3e-6 },
  'gradient of attention': {
    inputs: [...thin.inputs, floats([8200, 8, 64], 4)],
    build: (...values) => backward(thin.run(values.slice(0, 5)), values[5]!, values.slice(0, 3)),
    tolerance: 1e-5,
  },
  'matmul, few rows': {
    inputs: [floats([1, 4], 1), floats([NORMED, 4], 2)],
    build: (a, b) => matmul(a, b, { transB: true }),
    subgroups: false,
    tolerance: 2e-6,
  },
  'matmul, many rows': {
    inputs: [floats([2 * NORMED, 4], 1), floats([4, 4], 2)],
    build: (a, b) => matmul(a, b),
    tolerance: 2e-6,
  },
};

describe('more than 65,535 workgroups', () => {
  for (const [name, test] of Object.entries(cases))
    it(name, { timeout: 300_000 }, () => checkKernel({ ...test, manyWorkgroups: true }));
});
