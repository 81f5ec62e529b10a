import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { align, pointsOf, roundStep, smooth, toCsv } from './chart-data.ts';

describe('smooth', () => {
  it('leaves a curve alone at weight 0 and a constant alone at any', () => {
    expect(smooth([3, 1, 2], 0)).toEqual([3, 1, 2]);
    for (const value of smooth([2, 2, 2, 2], 0.9)) expect(value).toBeCloseTo(2, 12);
  });
  it('starts at the first value, not at zero', () => expect(smooth([5, 1], 0.99)[0]).toBeCloseTo(5, 10));
  it('is the weighted mean of what came before', () => {
    // weights 0.25, 0.5 over their sum 0.75
    expect(smooth([1, 4], 0.5)[1]).toBeCloseTo((0.25 * 1 + 0.5 * 4) / 0.75, 12);
  });
  it('stays between the smallest and the largest value', () =>
    fc.assert(
      fc.property(
        fc.array(fc.double({ min: -1e6, max: 1e6, noNaN: true }), { minLength: 1 }),
        fc.double({ min: 0, max: 0.99, noNaN: true }),
        (values, weight) => {
          const [low, high] = [Math.min(...values), Math.max(...values)];
          for (const value of smooth(values, weight)) {
            expect(value).toBeGreaterThanOrEqual(low - 1e-6);
            expect(value).toBeLessThanOrEqual(high + 1e-6);
          }
        },
      ),
    ));
});

describe('align', () => {
  it('joins series of different steps', () => {
    expect(
      align([
        [
          { x: 5, y: 2 },
          { x: 10, y: 1 },
        ],
        [
          { x: 7, y: 3 },
          { x: 10, y: 4 },
        ],
        [],
      ]),
    ).toEqual([
      [5, 7, 10],
      [2, null, 1],
      [null, 3, 4],
      [null, null, null],
    ]);
  });

  it('takes the last of two values of one step', () =>
    expect(
      align([
        [
          { x: 1, y: 2 },
          { x: 1, y: 3 },
        ],
      ]),
    ).toEqual([[1], [3]]));
});

it('takes a metric where it was logged', () => {
  expect(
    pointsOf(
      [
        { step: 1, epoch: 0, loss: 2 },
        { step: 2, epoch: 0, eval_loss: 3 },
      ],
      'loss',
    ),
  ).toEqual([{ x: 1, y: 2 }]);
});

it('writes CSV that a spreadsheet reads', () => {
  const csv = toCsv([
    { label: 'loss, "raw"', points: [{ x: 1, y: 0.5 }], role: 'student' },
    { label: 'eval', points: [{ x: 2, y: 1 }], role: 'student' },
  ]);
  expect(csv).toBe('step,"loss, ""raw""",eval\n1,0.5,\n2,,1\n');
});

it('labels axes with round figures', () => {
  expect([300, 1.5, 0.007].map((range) => roundStep(range, 4))).toEqual([100, 0.5, 0.002]);
});
