/** Intervals against the roots of (p − k/n)² = z² p (1 − p) / n, and within 0 and 1. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { proportion } from './interval.ts';

describe('proportion', () => {
  it.each([
    [0, 10, 0, 0.27753],
    [8, 10, 0.49016, 0.94332],
    [69, 100, 0.59374, 0.7722],
    [50, 50, 0.92865, 1],
  ])('%i of %i lies between %f and %f', (right, rows, low, high) => {
    const figure = proportion(right, rows);
    expect(figure.low).toBeCloseTo(low, 4);
    expect(figure.high).toBeCloseTo(high, 4);
  });

  it('holds its value, within 0 and 1', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 5000 }), fc.double({ min: 0, max: 1, noNaN: true }), (rows, share) => {
        const { low, value, high } = proportion(Math.round(share * rows), rows);
        expect(low).toBeGreaterThanOrEqual(0);
        expect(low).toBeLessThanOrEqual(value);
        expect(high).toBeGreaterThanOrEqual(value);
        expect(high).toBeLessThanOrEqual(1);
      }),
    );
  });
});
