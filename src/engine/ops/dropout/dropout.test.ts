import { describe, expect, it } from 'vitest';
import { checkGradient, checkKernel, floats, integers } from '../../testing.ts';
import { dropoutOp, dropout } from './dropout.ts';

// one product, rounded once; a wrong mask would be an error of the size of the entries themselves
describe('dropout', () => {
  const build = (p: number, site: number) => (x: Parameters<typeof dropout>[0], seed: Parameters<typeof dropout>[1]) =>
    dropout(x, seed, { p, site });
  for (const shape of [[1], [3, 7], [4, 5, 8]]) {
    for (const seed of [
      [42, 0],
      [-7, 123456],
    ]) {
      const inputs = [floats(shape, 1), integers([2], seed)];
      it(`kernel [${shape}] seed ${seed}`, () => checkKernel({ inputs, build: build(0.3, 5), tolerance: 2e-7 }));
      it(`gradient [${shape}] seed ${seed}`, () => checkGradient({ inputs, build: build(0.3, 5) }));
    }
  }
  it('keeps the share it should, another one at another site and step', () => {
    const shape = [100, 100];
    const masked = (site: number, step: number) =>
      dropoutOp.reference!(
        [
          { shape, data: new Float64Array(10_000).fill(1) },
          { shape: [2], data: Float64Array.of(42, step) },
        ],
        { p: 0.25, site },
        [{ shape, dtype: 'f32' }],
      )[0]!.data;
    const share = (data: Float64Array) => data.filter((value) => value === 0).length / data.length;
    // four standard deviations of 10,000 draws
    expect(Math.abs(share(masked(0, 1)) - 0.25)).toBeLessThan(4 * Math.sqrt((0.25 * 0.75) / 10_000));
    expect(masked(0, 1)).not.toEqual(masked(1, 1));
    expect(masked(0, 1)).not.toEqual(masked(0, 2));
    expect(masked(0, 1)).toEqual(masked(0, 1));
  });
});
