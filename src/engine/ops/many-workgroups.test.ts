/**
 * Grids of more than 65,535 workgroups, which no dimension of a dispatch may have: those of `flatGrid` and of the norms'
 * passes by one op of each way to index them, the optimisers', and the matmul's own. linear-loss, linear-topk and pack come to
 * such grids in their own tests. Not here: 8-bit AdamW
 * and dropout, whose float64 references would take minutes over as many numbers.
 */
import { describe, it } from 'vitest';
import { checkKernel, floats, integers, type OpCase } from '../testing.ts';
import {
  accumulate,
  activation,
  adamw,
  add,
  concat,
  embedding,
  fill,
  layernorm,
  lion,
  matmul,
  mul,
  rmsnorm,
  sgd,
  siluMul,
  split,
  takeRows,
} from './index.ts';

/** One thread each are more than 65,535 workgroups of 64; rows of seven. */
const ROWS = 599_179;
const MANY = 7 * ROWS;
/** Eight threads each. */
const NORMED = 524_300;
const hyper = { shape: [8], data: Float32Array.of(1e-2, 0.9, 0.999, 1e-8, 0.1, 0.1, 0.001, 0.5) };
const norm = { shape: [1], data: Float32Array.of(4) };
const squares = { shape: [MANY], data: floats([MANY], 3).data.map(Math.abs) as Float32Array };

const cases: Readonly<Record<string, OpCase>> = {
  add: { inputs: [floats([ROWS, 7], 1), floats([7], 2)], build: add, tolerance: 2e-7 },
  mul: { inputs: [floats([ROWS, 7], 1), floats([7], 2)], build: mul, tolerance: 2e-7 },
  'silu-mul': { inputs: [floats([MANY], 1), floats([MANY], 2)], build: siluMul, tolerance: 1e-6 },
  activation: { inputs: [floats([MANY], 1)], build: (x) => activation(x, 'relu'), tolerance: 0 },
  fill: { inputs: [floats([1], 1)], build: (x) => fill(x, [ROWS, 7]), tolerance: 0 },
  'take-rows': { inputs: [floats([ROWS + 2, 7], 1)], build: (x) => takeRows(x, 2, ROWS), tolerance: 0 },
  'split and concat': { inputs: [floats([ROWS, 8], 1)], build: (x) => concat(split(x, [1, 7])), tolerance: 0 },
  embedding: {
    inputs: [
      floats([5, 7], 1),
      integers(
        [1, ROWS],
        Array.from({ length: ROWS }, (_, i) => (i * i) % 5),
      ),
    ],
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
    it(name, { timeout: 120_000 }, () => checkKernel({ ...test, manyWorkgroups: true }));
});
