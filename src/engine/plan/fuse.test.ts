import { describe, expect, it } from 'vitest';
import { gradients } from '../graph/autodiff.ts';
import { Graph } from '../graph/graph.ts';
import type { Value } from '../graph/types.ts';
import { accumulate, add, matmul, mul, scaleBy, sumAll } from '../ops/index.ts';
import { embeddingGradient } from '../ops/embedding/embedding.ts';
import { checkKernel, floats, integers, type OpCase } from '../testing.ts';
import { fuse } from './fuse.ts';
import { order } from './order.ts';

const linear = (x: Value, w: Value): Value => matmul(x, w, { transB: true });
const [x, w, y, bias] = [floats([2, 9, 20], 1), floats([44, 20], 2), floats([2, 9, 44], 3), floats([44], 4)];
const ids = integers([2, 9], [0, 3, 3, 1, 5, 3, 0, 2, 6, 6, 6, 1, 0, 4, 4, 2, 1, 3]);
const [table, g] = [floats([7, 20], 9), floats([2, 9, 20], 10)];
const [down, up] = [floats([4, 20], 5), floats([44, 4], 6)];

/** What runs for the outputs of a case, by name. */
function opsOf({ inputs, build, states }: OpCase): string[] {
  const graph = new Graph();
  const built = build(
    ...inputs.map(({ shape }, i) =>
      states?.includes(i) ? graph.state(`in${i}`, shape) : graph.input(`in${i}`, shape),
    ),
  );
  [built].flat().forEach((value, i) => graph.output(`out${i}`, value as Value));
  return fuse(graph, order(graph)).map(({ op }) => op.name);
}

// 20 products and a sum of numbers below 1 in f32, in another order than float64's reference
const tolerance = 1e-6;
const FUSED: readonly (readonly [what: string, test: OpCase, ops: readonly string[]])[] = [
  ['a bias', { inputs: [x, w, bias], build: (x, w, b) => add(linear(x!, w!), b!) }, ['matmul onto']],
  ['a residual', { inputs: [x, w, y], build: (x, w, y) => add(y!, linear(x!, w!)) }, ['matmul onto']],
  [
    'a residual of one row',
    {
      inputs: [floats([1, 64], 1), floats([96, 64], 2), floats([1, 96], 3)],
      build: (x, w, y) => add(y!, linear(x!, w!)),
    },
    ['matmul onto'],
  ],
  [
    'a LoRA pair and a residual',
    {
      inputs: [x, w, down, up, y],
      build: (x, w, a, b, y) => add(y!, add(linear(x!, w!), linear(linear(x!, a!), b!))),
    },
    ['matmul onto', 'matmul', 'matmul onto'],
  ],
  [
    'gradients of one value by three products',
    {
      inputs: [x, w, floats([44, 20], 7), floats([44, 20], 8), y],
      build: (x, a, b, c, g) => {
        const out = mul(linear(x!, a!), mul(linear(x!, b!), linear(x!, c!)));
        return gradients(x!.graph as Graph, sumAll(mul(out, g!)), sumAll(g!), [x!]).get(x!)!;
      },
      tolerance: 1e-5,
    },
    ['matmul onto', 'matmul onto'],
  ],
  [
    'the gradients of a table that the head shares',
    { inputs: [table, ids, g], build: (head, ids, g) => add(head!, embeddingGradient(ids!, g!, 7)) },
    ['embedding-gradient onto'],
  ],
  [
    'the gradients of a table that two look into',
    {
      inputs: [table, ids, g],
      build: (head, ids, g) => add(add(head!, embeddingGradient(ids!, g!, 7)), embeddingGradient(ids!, g!, 7)),
    },
    ['embedding-gradient onto', 'embedding-gradient onto'],
  ],
];
const APART: readonly (readonly [what: string, test: OpCase])[] = [
  [
    'a product that two read',
    {
      inputs: [x, w, y],
      build: (x, w, y) => {
        const product = linear(x!, w!);
        return [add(product, y!), mul(product, y!)];
      },
    },
  ],
  [
    'the gradient of a table and a number for each of its columns',
    { inputs: [ids, g, floats([20], 5)], build: (ids, g, b) => add(embeddingGradient(ids!, g!, 7), b!) },
  ],
  ['the same product twice', { inputs: [x, w], build: (x, w) => twice(linear(x!, w!)) }],
  [
    'rows of positions, the same for every sequence',
    { inputs: [x, w, floats([9, 44], 4)], build: (x, w, p) => add(linear(x!, w!), p!) },
  ],
  [
    'a product of what has been overwritten since',
    {
      inputs: [x, w, floats([44, 20], 5), { shape: [2], data: Float32Array.of(1, 1) }, y],
      states: [1],
      build: (x, w, more, scale, y) => {
        const product = linear(x!, w!);
        const changed = accumulate(w!, more!, scale!);
        return [add(add(y!, after(changed, y!)), product), changed];
      },
    },
  ],
];
const twice = (value: Value): Value => add(value, value);
/** y times a number that waits for `changed`. */
const after = (changed: Value, y: Value): Value => scaleBy(y, sumAll(changed));

describe('a product begins with what it is added to', () => {
  it.each(FUSED)('%s', async (_, test, ops) => {
    const found = opsOf(test);
    expect(found).not.toContain('add');
    expect(found.filter((name) => name === 'matmul onto')).toHaveLength(
      ops.filter((name) => name === 'matmul onto').length,
    );
    await checkKernel({ tolerance, ...test });
    await checkKernel({ tolerance, ...test, subgroups: false });
  });
  it('in windows of a smaller binding', async () => {
    const inputs = [floats([200, 20], 1), floats([300, 20], 2), floats([200, 300], 3)];
    const build: OpCase['build'] = (x, w, y) => add(y!, linear(x!, w!));
    await checkKernel({ inputs, build, tolerance, maxBinding: 2 ** 17 });
    await checkKernel({
      inputs: [...inputs.slice(0, 2), floats([300], 4)],
      build: (x, w, b) => add(linear(x!, w!), b!),
      tolerance,
      maxBinding: 2 ** 17,
    });
  });
  it.each(APART)('but not %s', async (_, test) => {
    expect(opsOf(test)).not.toContain('matmul onto');
    await checkKernel({ tolerance: 2e-6, ...test });
  });
});
