import { describe, expect, it } from 'vitest';
import { checkGradient, checkKernel, floats, integers } from '../../testing.ts';
import { Graph } from '../../graph/graph.ts';
import type { Value } from '../../graph/types.ts';
import { add, mul } from '../index.ts';
import { embedding, embeddingGradient } from './embedding.ts';

const repeating = (count: number, V: number): number[] => Array.from({ length: count }, (_, i) => (i * i + 3 * i) % V);

describe('embedding', () => {
  for (const [B, T, V, H] of [
    [1, 1, 1, 3],
    [2, 5, 7, 4],
    [3, 17, 11, 12],
    [1, 70, 5, 5],
  ] as const) {
    const ids = integers([B, T], repeating(B * T, V));
    const test = { inputs: [floats([V, H], 1), ids], build: embedding };
    it(`kernel ${B}x${T} of ${V}x${H}`, () => checkKernel({ ...test, tolerance: 0 }));
    it(`gradient ${B}x${T} of ${V}x${H}`, () => checkGradient(test));
    // up to 20 places add up for one id: a rounding of 2^-24 each
    it(`gradient's kernel ${B}x${T} of ${V}x${H}`, () =>
      checkKernel({
        inputs: [ids, floats([B, T, H], 2)],
        build: (places, g) => embeddingGradient(places, g, V),
        tolerance: 1e-6,
      }));
  }
  describe('the gradient of a table that a head shares is added to what the head gave', () => {
    const [ids, g] = [integers([2, 40], repeating(80, 300)), floats([2, 40, 12], 2)];
    const head = [floats([300, 12], 3), floats([300, 12], 4)];
    const inputs = [ids, g, ...head];
    const sum = (ids: Value, g: Value, a: Value, b: Value): Value => add(mul(a, b), embeddingGradient(ids, g, 300));
    for (const maxBinding of [undefined, 128 * 4 * 12]) {
      const where = maxBinding ? ', in windows' : '';
      it(`in its place${where}`, () =>
        checkKernel({
          inputs,
          build: (ids, g, a, b) => sum(ids!, g!, a!, b!),
          tolerance: 1e-6,
          ...(maxBinding && { maxBinding }),
        }));
      it(`and beside it where somebody reads that afterwards${where}`, () =>
        checkKernel({
          inputs,
          build: (ids, g, a, b) => {
            const given = mul(a!, b!);
            return [add(embeddingGradient(ids!, g!, 300), given), mul(given, a!)];
          },
          tolerance: 1e-6,
          ...(maxBinding && { maxBinding }),
        }));
    }
  });
  it('goes through a table in windows', async () => {
    const ids = integers([2, 40], repeating(80, 300));
    const maxBinding = 128 * 4 * 12;
    await checkKernel({ inputs: [floats([300, 12], 1), ids], build: embedding, tolerance: 0, maxBinding });
    const build = (places: Value, g: Value) => embeddingGradient(places, g, 300);
    await checkKernel({ inputs: [ids, floats([2, 40, 12], 2)], build, tolerance: 1e-6, maxBinding });
  });
  it('keeps symbols, refuses ids that are no integers', () => {
    const graph = new Graph();
    const table = graph.parameter('table', [5, 4]);
    expect(embedding(table, graph.input('ids', ['batch', 'length'], 'i32')).type.shape).toEqual(['batch', 'length', 4]);
    expect(() => embedding(table, graph.input('x', [2, 2]))).toThrow('f32[2,2]');
  });
});
