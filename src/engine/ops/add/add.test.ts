import { describe, expect, it } from 'vitest';
import { gradients } from '../../graph/autodiff.ts';
import { Graph } from '../../graph/graph.ts';
import { interpret } from '../../graph/interpret.ts';
import { checkGradient, checkKernel, floats } from '../../testing.ts';
import { attention } from '../attention/attention.ts';
import { sumLeading } from '../sum-leading/sum-leading.ts';
import { add, addForgotten } from './add.ts';

// one f32 addition is exact to half a unit in the last place; sums over 1,000 rows in blocks stay below 1e-6
describe('add', () => {
  const cases = [
    { name: 'same shape', inputs: [floats([3, 5, 7], 1), floats([3, 5, 7], 2)] },
    { name: 'bias', inputs: [floats([2, 3, 5], 3), floats([5], 4)] },
    { name: 'one element', inputs: [floats([1], 5), floats([1], 6)] },
  ];
  for (const { name, inputs } of cases) {
    const test = { inputs, build: add, tolerance: 1e-7 };
    it(`kernel: ${name}`, () => checkKernel(test));
    it(`gradient: ${name}`, () => checkGradient(test));
  }
  it('kernel: the same tensor twice', () =>
    checkKernel({ inputs: [floats([9], 7)], build: (a) => add(a, a), tolerance: 1e-7 }));
  it('kernel: more than 65,535 workgroups', () =>
    checkKernel({
      inputs: [floats([4_200_000], 8), floats([7], 9)].map((x, i) => (i ? x : { ...x, shape: [600_000, 7] })),
      build: add,
      tolerance: 1e-7,
    }));
  it('a forgotten one: what is made of the sum does not move with it, and its gradient is zero', () => {
    const graph = new Graph();
    const [q, k, v, g] = ['q', 'k', 'v', 'g'].map((name) => graph.input(name, [2, 5, 12]));
    const [bias, segments] = [graph.input('bias', [12]), graph.input('segments', [2, 5], 'i32')];
    const options = { heads: 3, kv_heads: 3, head_dim: 4, scale: 0.5, causal: false };
    const [out] = attention(q!, addForgotten(k!, bias), v!, segments, segments, options);
    const found = gradients(graph, out, g!, [k!, bias]);
    const at = (shift: number) =>
      interpret(
        graph,
        new Map([
          ...['q', 'k', 'v', 'g'].map((name, i) => [name, Float64Array.from(floats([120], i).data)] as const),
          ['bias', Float64Array.from(floats([12], 9).data, (value) => value + shift)],
          ['segments', new Float64Array(10).fill(1)],
        ]),
        [out, found.get(k!)!, found.get(bias)!],
      ).map(({ data }) => data);
    const [before, after] = [at(0), at(3)];
    for (const i of [0, 1]) before[i]!.forEach((value, j) => expect(after[i]![j]).toBeCloseTo(value, 12));
    expect(after[2]!.every((value) => value === 0)).toBe(true);
  });

  it('sum-leading', () =>
    checkKernel({ inputs: [floats([1001, 13], 8)], build: (x) => sumLeading(x, 1), tolerance: 1e-6 }));
});
