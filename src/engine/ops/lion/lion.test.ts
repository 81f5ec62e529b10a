import { it } from 'vitest';
import { checkKernel, floats } from '../../testing.ts';
import { lion } from './lion.ts';

const hyper = (maxNorm: number) => Float32Array.of(1e-2, 0.9, 0.99, 1e-8, 0.1, 1, 1, maxNorm);
const norm = { shape: [1], data: Float32Array.of(4) };

// a few f32 operations an element: 2e-6 of the largest entry
for (const size of [1, 63, 4097]) {
  for (const decay of [true, false]) {
    for (const maxNorm of [0, 0.5]) {
      const settings = { shape: [8], data: hyper(maxNorm) };
      it(`lion: ${size} numbers, decay ${decay}, clipped at ${maxNorm}`, () =>
        checkKernel({
          inputs: [floats([size], 1), floats([size], 2), floats([size], 3), settings, norm],
          states: [0, 1],
          build: (p, m, g, h, n) => lion(p!, m!, g!, h!, n!, { decay }),
          tolerance: 2e-6,
        }));
    }
  }
}
