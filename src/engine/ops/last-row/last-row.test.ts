import { describe, expect, it } from 'vitest';
import { checkKernel, floats } from '../../testing.ts';
import { Graph } from '../../graph/graph.ts';
import { lastRow } from './last-row.ts';

// a copy: exact
describe('lastRow', () => {
  for (const shape of [
    [1, 1, 3],
    [2, 5, 4],
    [3, 2, 7],
  ]) {
    it(`[${shape}]`, () => checkKernel({ inputs: [floats(shape, 1)], build: lastRow, tolerance: 0 }));
  }
  it('keeps a symbolic batch', () => {
    expect(lastRow(new Graph().input('x', ['batch', 'length', 8])).type.shape).toEqual(['batch', 1, 8]);
  });
});
