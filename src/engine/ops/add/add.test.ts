import { describe, it } from 'vitest';
import { checkGradient, checkKernel, floats } from '../../testing.ts';
import { sumLeading } from '../sum-leading/sum-leading.ts';
import { add } from './add.ts';

// one f32 addition is exact to half a unit in the last place; sums over 1,000 rows in blocks stay below 1e-6
describe('add', () => {
  const cases = [
    { name: 'same shape', inputs: [floats([3, 5, 7], 1), floats([3, 5, 7], 2)] },
    { name: 'bias', inputs: [floats([2, 3, 5], 3), floats([5], 4)] },
    { name: 'one element', inputs: [floats([1], 5), floats([1], 6)] },
  ];
  for (const { name, inputs } of cases) {
    const test = { inputs, build: add, tolerance: 1e-7 };
    it(`kernel: ${name}`, () => checkKernel(test));
    it(`gradient: ${name}`, () => checkGradient(test));
  }
  it('kernel: the same tensor twice', () =>
    checkKernel({ inputs: [floats([9], 7)], build: (a) => add(a, a), tolerance: 1e-7 }));
  it('kernel: more than 65,535 workgroups', () =>
    checkKernel({
      inputs: [floats([4_200_000], 8), floats([7], 9)].map((x, i) => (i ? x : { ...x, shape: [600_000, 7] })),
      build: add,
      tolerance: 1e-7,
    }));
  it('sum-leading', () =>
    checkKernel({ inputs: [floats([1001, 13], 8)], build: (x) => sumLeading(x, 1), tolerance: 1e-6 }));
});
