import { describe, expect, it } from 'vitest';
import { checkKernel, integers } from '../../testing.ts';
import { Graph } from '../../graph/graph.ts';
import { positions } from './positions.ts';

// whole numbers: exact
describe('positions', () => {
  for (const [B, T] of [
    [1, 1],
    [3, 5],
  ] as const) {
    const inputs = [integers([B, T], new Array<number>(B * T).fill(7))];
    it(`[${B}, ${T}]`, () => checkKernel({ inputs, build: positions, tolerance: 0 }));
  }
  it('refuses what are no ids', () => {
    expect(() => positions(new Graph().input('x', [2, 3]))).toThrow('f32');
  });
});
