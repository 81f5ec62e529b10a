import { describe, expect, it } from 'vitest';
import { Graph } from '../engine/graph/graph.ts';
import { interpret } from '../engine/graph/interpret.ts';
import { sizeOf, type Shape } from '../engine/graph/types.ts';
import { matmul } from '../engine/ops/index.ts';
import { noise } from '../engine/testing.ts';
import { headWithLora, withLora } from './lora.ts';

const [V, H] = [11, 6];
const linear = { path: 'lm_head', r: 3, scaling: 0.7 };

/** Logits of a head, by one longer product or as of any other linear layer, in float64. */
function logits(as: 'head' | 'linear', dora: boolean, p: number): Float64Array {
  const graph = new Graph();
  const hidden = graph.input('hidden', [2, 5, H]);
  const weight = graph.parameter('lm_head.weight', [V, H]);
  const drop = { p, seed: graph.input('seed', [2], 'i32'), site: () => 4 };
  const choices = { trainable: true, dora, bias: false, drop };
  const product = (x: typeof hidden, w: typeof weight) => matmul(x, w, { transB: true });
  let result;
  if (as === 'linear') {
    const site = { x: hidden, w: weight, y: product(hidden, weight), conv1d: false };
    result = withLora(graph, linear, site, choices);
  } else {
    const long = headWithLora(graph, linear, { hidden, weight }, choices);
    result = product(long.hidden, long.weight);
  }
  let seed = 1;
  const numbers = (shape: Shape) => Float64Array.from(noise(sizeOf(shape), seed++));
  const bound = new Map([['hidden', numbers([2, 5, H])]]);
  for (const name of ['weight', 'lora_A.weight', 'lora_B.weight', 'lora_magnitude_vector.weight']) {
    const source = graph.sources.get(`lm_head.${name}`);
    if (source) bound.set(source.name, numbers(source.value.type.shape));
  }
  bound.set('seed', Float64Array.of(7, 1));
  return interpret(graph, bound, [result])[0]!.data;
}

describe.each([false, true])('a head with its pair, DoRA %s', (dora) => {
  it.each([0, 0.4])('is a linear layer with it, dropping %f', (p) => {
    const wanted = logits('linear', dora, p);
    const got = logits('head', dora, p);
    expect(wanted.some((value) => value !== 0)).toBe(true);
    got.forEach((value, i) => expect(value).toBeCloseTo(wanted[i]!, 12));
    if (p > 0) expect(Array.from(got)).not.toEqual(Array.from(logits('head', dora, 0)));
  });
});
