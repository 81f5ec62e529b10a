/** Intervals against known values (roots of (p − k/n)² = z² p (1 − p) / n), and exact match's counting. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { exactMatch } from './exact-match.ts';
import { wilson } from './interval.ts';

describe('wilson', () => {
  it.each([
    [0, 10, 0, 0.27753],
    [8, 10, 0.49016, 0.94332],
    [69, 100, 0.59374, 0.7722],
    [50, 50, 0.92865, 1],
  ])('%i of %i lies between %f and %f', (right, rows, low, high) => {
    const figure = wilson(right, rows);
    expect(figure.low).toBeCloseTo(low, 4);
    expect(figure.high).toBeCloseTo(high, 4);
  });

  it('holds its value, within 0 and 1', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 5000 }), fc.double({ min: 0, max: 1, noNaN: true }), (rows, share) => {
        const { low, value, high } = wilson(Math.round(share * rows), rows);
        expect(low).toBeGreaterThanOrEqual(0);
        expect(low).toBeLessThanOrEqual(value);
        expect(high).toBeGreaterThanOrEqual(value);
        expect(high).toBeLessThanOrEqual(1);
      }),
    );
  });
});

describe('exactMatch', () => {
  it('asks in batches, and counts an empty answer as wrong', async () => {
    const sizes: number[] = [];
    const questions = ['1', '2', '', '4', '5'].map((expected, i) => ({ prompt: [i], expected }));
    const figure = await exactMatch(
      questions,
      {
        batch: 2,
        answer: async (prompts) => {
          sizes.push(prompts.length);
          return prompts.map(([i]) => (i === 2 ? '' : ` ${i! + 1} `));
        },
      },
      (text) => text.trim(),
    );
    expect(sizes).toEqual([2, 2, 1]);
    expect(figure).toMatchObject({ value: 4 / 5, rows: 5 });
  });
});
