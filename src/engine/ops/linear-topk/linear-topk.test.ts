import { describe, it } from 'vitest';
import { checkKernel, floats } from '../../testing.ts';
import { linearTopk } from './linear-topk.ts';

// logits of unit size from 16 products: 1e-6; ids are exact because no two random logits are closer than that
describe('linear-topk', () => {
  const cases: [string, number, number, number, number, number[]][] = [
    ['small', 3, 16, 50, 8, [1]],
    ['all of the vocabulary', 2, 16, 7, 7, [1, 2, 5]],
    ['one', 5, 16, 300, 1, [2]],
    ['several chunks', 150, 8, 70_000, 3, [1, 2]],
    ['large k', 2, 16, 5000, 300, [1]],
  ];
  for (const [name, rows, H, V, k, temperatures] of cases) {
    it(name, () =>
      checkKernel({
        inputs: [floats([1, rows, H], 1), floats([V, H], 2)],
        build: (hidden, weight) => {
          const { ids, logits, log_z } = linearTopk(hidden!, weight!, { k, temperatures });
          return [logits, log_z, ids];
        },
        tolerance: 1e-6,
      }),
    );
  }
  it('adds a bias', () =>
    checkKernel({
      inputs: [floats([1, 9, 8], 1), floats([700, 8], 2), floats([700], 3)],
      build: (hidden, weight, bias) => {
        const { ids, logits, log_z } = linearTopk(hidden!, weight!, { k: 3, temperatures: [1, 2] }, bias);
        return [logits, log_z, ids];
      },
      tolerance: 1e-6,
    }));
  it('of soft-capped logits, several chunks', () =>
    checkKernel({
      inputs: [floats([1, 150, 8], 1, 2), floats([70_000, 8], 2)],
      build: (hidden, weight) => {
        const { logits, log_z } = linearTopk(hidden!, weight!, { k: 3, temperatures: [1, 2], softcap: 4 });
        return [logits, log_z];
      },
      tolerance: 1e-6,
    }));
  it('gives smaller ids first where logits are equal', () =>
    checkKernel({
      inputs: [floats([1, 2, 4], 1), { shape: [600, 4], data: new Float32Array(2400).fill(0.5) }],
      build: (hidden, weight) => linearTopk(hidden!, weight!, { k: 33, temperatures: [1] }).ids,
      tolerance: 0,
    }));
});
