import { describe, expect, it } from 'vitest';
import { checkGradient, checkKernel, floats, integers } from '../../testing.ts';
import { Graph } from '../../graph/graph.ts';
import type { Value } from '../../graph/types.ts';
import { rotary } from './rotary.ts';

// two products and a sum of numbers below 1
describe('rotary', () => {
  for (const { B, T, heads, d, R } of [
    { B: 1, T: 1, heads: 1, d: 2, R: 1 },
    { B: 2, T: 5, heads: 3, d: 8, R: 4 },
    { B: 2, T: 3, heads: 2, d: 12, R: 6 },
    { B: 1, T: 4, heads: 2, d: 16, R: 4 },
    { B: 3, T: 2, heads: 1, d: 10, R: 3 },
  ]) {
    const P = 9;
    const angles = Float32Array.from({ length: P * R }, (_, i) => Math.floor(i / R) / 100 ** ((i % R) / R));
    const inputs = [
      floats([B, T, heads * d], 1),
      { shape: [P, R], data: angles.map(Math.cos) },
      { shape: [P, R], data: angles.map(Math.sin) },
      integers(
        [B, T],
        Array.from({ length: B * T }, (_, i) => (5 * i) % P),
      ),
    ];
    for (const inverse of [false, true]) {
      const name = `${B}x${T}x${heads}·${d}, R ${R}${inverse ? ', inverse' : ''}`;
      const build = (x: Value, cos: Value, sin: Value, positions: Value) =>
        rotary(x, cos, sin, positions, { head_dim: d, inverse });
      const test = { inputs, build, gradientOf: [0] };
      it(`kernel ${name}`, () => checkKernel({ ...test, tolerance: 3e-7 }));
      it(`gradient ${name}`, () => checkGradient(test));
    }
  }
  it('keeps symbols, refuses tables that are too wide', () => {
    const graph = new Graph();
    const [x, positions] = [graph.input('x', ['b', 't', 16]), graph.input('positions', ['b', 't'], 'i32')];
    const [cos, wide] = [graph.input('cos', [4, 4]), graph.input('wide', [4, 8])];
    expect(rotary(x, cos, cos, positions, { head_dim: 8 }).type.shape).toEqual(['b', 't', 16]);
    expect(() => rotary(x, wide, wide, positions, { head_dim: 8 })).toThrow('heads of 8');
  });
});
