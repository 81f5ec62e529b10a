import { describe, expect, it } from 'vitest';
import { philox, philoxUniform } from './philox.ts';

describe('philox', () => {
  // the known answers that come with the authors' Random123 library (philox4x32, 10 rounds)
  it('gives the published words', () => {
    expect(philox([0, 0, 0, 0], [0, 0])).toEqual([0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
    const ones = 0xffffffff;
    expect(philox([ones, ones, ones, ones], [ones, ones])).toEqual([0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]);
    expect(philox([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0])).toEqual([
      0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1,
    ]);
  });

  it('spreads evenly over [0, 1) and depends on every coordinate', () => {
    const draws = Array.from({ length: 10_000 }, (_, i) => philoxUniform(42, i));
    expect(Math.min(...draws)).toBeGreaterThanOrEqual(0);
    expect(Math.max(...draws)).toBeLessThan(1);
    // four standard deviations of a mean of 10,000 uniform draws
    expect(Math.abs(draws.reduce((a, b) => a + b) / 10_000 - 0.5)).toBeLessThan(4 / Math.sqrt(12 * 10_000));
    expect(
      new Set([philoxUniform(1, 2, 3), philoxUniform(2, 2, 3), philoxUniform(1, 3, 3), philoxUniform(1, 2, 4)]).size,
    ).toBe(4);
  });
});
