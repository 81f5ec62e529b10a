/** What the backward pass must find, counted by hand. */
import { describe, expect, it } from 'vitest';
import { gradients } from '../graph/autodiff.ts';
import { Graph } from '../graph/graph.ts';
import type { Value } from '../graph/types.ts';
import { accumulate, activation, matmul, mul, sumAll } from '../ops/index.ts';
import { hoist, order } from './order.ts';
import { savedBytes } from './saved.ts';

const ROWS = 6;
const WIDTH = 8;
const BYTES = 4 * ROWS * WIDTH;

/** Two blocks x ─▶ gelu(x · W), all weights trained, and the sum of squares as the loss. */
function saved(options: { recompute?: boolean; fp16?: boolean }): number {
  const graph = new Graph();
  const one = graph.constant('one', [1], Float32Array.of(1));
  const factors = graph.input('factors', [2]);
  const weights = [0, 1].map((i) => graph.parameter(`w${i}`, [WIDTH, WIDTH], { trainable: true }));
  let x: Value = graph.input('x', [ROWS, WIDTH]);
  for (const w of weights) x = graph.block(() => activation(matmul(x, w), 'gelu'));
  const found = gradients(graph, sumAll(mul(x, x)), one, weights, options);
  weights.forEach((w, i) => accumulate(graph.state(`gradient.${i}`, w.type.shape), found.get(w)!, factors));
  return savedBytes(graph, hoist(graph, order(graph)));
}

describe('what is saved for the backward pass', () => {
  it('is what each gradient reads: both products (gelu), the first result (dW), the last (the square)', () => {
    expect(saved({})).toBe(4 * BYTES);
  });

  it('is half of that in 16 bits', () => {
    expect(saved({ fp16: true })).toBe(2 * BYTES);
  });

  it('is an input a block and the insides of one, where blocks are computed again', () => {
    // the last result, or the first one (the second block's input) beside that block's own product
    expect(saved({ recompute: true })).toBe(2 * BYTES);
  });

  it('is nothing where nothing is differentiated', () => {
    const graph = new Graph();
    graph.output('out', activation(graph.input('x', [ROWS, WIDTH]), 'gelu'));
    expect(savedBytes(graph, hoist(graph, order(graph)))).toBe(0);
  });
});
