import { describe, expect, it } from 'vitest';
import { checkGradient, checkKernel, floats } from '../../testing.ts';
import { Graph } from '../../graph/graph.ts';
import { concat, split } from './split.ts';

// copies: exact
describe('split and concat', () => {
  for (const [lead, sizes] of [
    [[1], [1]],
    [
      [2, 5],
      [4, 8, 4],
    ],
    [
      [3, 2],
      [5, 2, 7],
    ],
  ] as const) {
    const width = sizes.reduce<number>((sum, size) => sum + size, 0);
    const whole = floats([...lead, width], 1);
    const parts = sizes.map((size, i) => floats([...lead, size], i));
    it(`kernel [${lead}] ${sizes}`, async () => {
      await checkKernel({ inputs: [whole], build: (x) => split(x, sizes), tolerance: 0 });
      await checkKernel({ inputs: parts, build: (...values) => concat(values), tolerance: 0 });
    });
    it(`gradient [${lead}] ${sizes}`, () => {
      checkGradient({ inputs: [whole], build: (x) => split(x, sizes) });
      checkGradient({ inputs: parts, build: (...values) => concat(values) });
    });
  }
  it.each([
    [3, 5],
    [8, 4],
  ])('columns of %i and %i in windows of a smaller binding', async (...sizes) => {
    const rows = [5, 123];
    const whole = floats([...rows, sizes[0] + sizes[1]], 1);
    const parts = sizes.map((size, i) => floats([...rows, size], i));
    await checkKernel({ inputs: [whole], build: (x) => split(x, sizes), tolerance: 0, maxBinding: 8192 });
    await checkKernel({ inputs: parts, build: (...values) => concat(values), tolerance: 0, maxBinding: 8192 });
  });
  it('a part that nobody uses has no gradient', () =>
    checkGradient({ inputs: [floats([2, 6], 1)], build: (x) => split(x, [2, 1, 3])[2]! }));
  it('keeps symbols, refuses what does not add up', () => {
    const x = new Graph().input('x', ['batch', 'length', 8]);
    expect(split(x, [6, 2]).map(({ type }) => type.shape)).toEqual([
      ['batch', 'length', 6],
      ['batch', 'length', 2],
    ]);
    expect(() => split(x, [6, 3])).toThrow('6, 3');
  });
});
