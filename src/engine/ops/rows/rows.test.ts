import { describe, expect, it } from 'vitest';
import { Graph } from '../../graph/graph.ts';
import { checkGradient, checkKernel, floats } from '../../testing.ts';
import { replaceRows, takeRows } from './rows.ts';

// copies: exact
describe('takeRows and replaceRows', () => {
  for (const [V, H, first, count] of [
    [1, 1, 0, 1],
    [7, 5, 4, 3],
    [9, 4, 2, 5],
  ] as const) {
    const [table, rows] = [floats([V, H], 1), floats([count, H], 2)];
    it(`kernel ${count} of [${V}, ${H}] from ${first}`, async () => {
      await checkKernel({ inputs: [table], build: (t) => takeRows(t, first, count), tolerance: 0 });
      await checkKernel({ inputs: [table, rows], build: (t, r) => replaceRows(t, r, first), tolerance: 0 });
    });
    it(`gradient of replaceRows, ${count} of [${V}, ${H}] from ${first}`, () =>
      checkGradient({ inputs: [table, rows], build: (t, r) => replaceRows(t, r, first) }));
  }
  it('find their rows in windows of the table', async () => {
    const [table, rows] = [floats([200, 12], 1), floats([70, 12], 2)];
    const test = { tolerance: 0, maxBinding: 64 * 4 * 12 };
    // rows begin in the first window and end in the third
    await checkKernel({ ...test, inputs: [table], build: (t) => takeRows(t, 60, 64) });
    await checkKernel({
      ...test,
      maxBinding: 70 * 4 * 12,
      inputs: [table, rows],
      build: (t, r) => replaceRows(t, r, 60),
    });
  });
  it('refuses rows beyond the table', () => {
    const graph = new Graph();
    const table = graph.input('table', [4, 2]);
    expect(() => takeRows(table, 3, 2)).toThrow('2 rows from 3');
    expect(() => replaceRows(table, graph.input('rows', [2, 2]), 3)).toThrow('from 3');
  });
});
