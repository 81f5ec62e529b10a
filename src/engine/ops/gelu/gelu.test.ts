import { describe, it } from 'vitest';
import { checkGradient, checkKernel, floats } from '../../testing.ts';
import { gelu, geluGradientOp } from './gelu.ts';

// the erf approximation is off by 1.5e-7 at most, exp and tanh by a few units in the last place
describe('gelu', () => {
  for (const approximate of ['none', 'tanh'] as const) {
    for (const shape of [[3], [3, 7], [4, 6, 8]]) {
      const inputs = [floats(shape, 1, 5)];
      it(`kernel ${approximate} [${shape}]`, () =>
        checkKernel({ inputs, build: (x) => gelu(x, { approximate }), tolerance: 1e-6 }));
      it(`gradient's kernel ${approximate} [${shape}]`, () =>
        checkKernel({
          inputs: [...inputs, floats(shape, 2)],
          build: (x, g) => x.graph.apply(geluGradientOp, [x, g], { approximate }),
          tolerance: 2e-6,
        }));
      it(`gradient ${approximate} [${shape}]`, () => checkGradient({ inputs, build: (x) => gelu(x, { approximate }) }));
    }
    it(`${approximate} stays finite far out`, () =>
      checkKernel({
        inputs: [{ shape: [6], data: Float32Array.of(-1e4, -100, -30, 30, 100, 1e4) }],
        build: (x) => gelu(x, { approximate }),
        tolerance: 1e-6,
      }));
  }
});
