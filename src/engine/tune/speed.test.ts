import { expect, it } from 'vitest';
import { Graph } from '../graph/graph.ts';
import { matmul, scale } from '../ops/index.ts';
import { plan } from '../plan/plan.ts';
import { testDevice } from '../testing.ts';
import { secondsOf } from './speed.ts';

it('foretells of each dispatch the longer of its operations and its traffic, and what any dispatch takes', async () => {
  const { limits } = await testDevice();
  const graph = new Graph();
  const product = matmul(graph.input('a', [64, 64]), graph.input('b', [64, 64]));
  graph.output('y', scale(product, 2));
  const made = plan(graph, limits);
  expect(made.dispatches).toHaveLength(2);
  const fast = { flops_per_second: 1e30, bytes_per_second: 1e30, seconds_per_dispatch: 0 };
  expect(secondsOf(made, { ...fast, seconds_per_dispatch: 0.5 })).toBeCloseTo(1, 9);
  expect(secondsOf(made, { ...fast, flops_per_second: 2 })).toBeCloseTo(64 ** 3 + 64 ** 2 / 2, 3);
  // three matrices through the product, two through the scale
  expect(secondsOf(made, { ...fast, bytes_per_second: 4 * 64 ** 2 })).toBeCloseTo(5, 9);
  // the product waits for its operations, the scale for memory
  const even = { flops_per_second: 2 * 64 ** 3, bytes_per_second: 4 * 64 ** 2, seconds_per_dispatch: 0 };
  expect(secondsOf(made, { ...even, flops_per_second: even.flops_per_second / 10 })).toBeCloseTo(10 + 2, 9);
});
