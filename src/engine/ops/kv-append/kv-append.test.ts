import { describe, expect, it } from 'vitest';
import { checkKernel, floats, integers } from '../../testing.ts';
import { Graph } from '../../graph/graph.ts';
import { kvAppend } from './kv-append.ts';

// a copy: exact
describe('kvAppend', () => {
  for (const [B, S, T, C, past] of [
    [1, 5, 1, 3, 4],
    [2, 7, 3, 8, 0],
    [3, 9, 2, 5, 6],
    [1, 4, 3, 4, 2], // one row more than there is room for
  ] as const) {
    it(`${T} rows of ${C} at ${past} of ${S}`, () =>
      checkKernel({
        inputs: [floats([B, S, C], 1), floats([B, T, C], 2), integers([1], [past])],
        states: [0],
        build: kvAppend,
        tolerance: 0,
      }));
  }
  it('refuses rows of another width', () => {
    const graph = new Graph();
    const cache = graph.state('cache', [1, 4, 8]);
    expect(() => kvAppend(cache, graph.input('x', [1, 1, 6]), graph.input('past', [1], 'i32'))).toThrow(
      '[1,1,6] into [1,4,8]',
    );
  });
});
