import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { knownDivergence } from './opened.ts';

/** A distribution over eight tokens, and the `known` likeliest of it. */
const distribution = fc
  .array(fc.double({ min: 1e-6, max: 1, noNaN: true }), { minLength: 8, maxLength: 8 })
  .map((weights) => {
    const sum = weights.reduce((a, b) => a + b);
    return weights.map((weight) => weight / sum);
  });
const likeliest = (p: readonly number[], known: number): Map<number, number> =>
  new Map([...p.entries()].sort((a, b) => b[1] - a[1]).slice(0, known));

describe('the distance of what is known', () => {
  it('is KL(p ‖ q) where all is known, and never more where only the likeliest are', () => {
    fc.assert(
      fc.property(distribution, distribution, fc.integer({ min: 1, max: 7 }), (p, q, known) => {
        const whole = p.reduce((sum, mass, i) => sum + mass * Math.log(mass / q[i]!), 0);
        expect(knownDivergence(likeliest(p, 8), likeliest(q, 8))).toBeCloseTo(whole, 4);
        // a rest below a millionth is left out, and may have had a term below nothing
        expect(knownDivergence(likeliest(p, known), likeliest(q, known))).toBeLessThanOrEqual(whole + 1e-4);
      }),
    );
  });

  it('is nothing between a model and itself', () => {
    const p = likeliest([0.5, 0.2, 0.1, 0.1, 0.05, 0.03, 0.01, 0.01], 5);
    expect(knownDivergence(p, p)).toBe(0);
  });
});
