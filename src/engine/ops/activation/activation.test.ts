import { describe, it } from 'vitest';
import { checkGradient, checkKernel, floats } from '../../testing.ts';
import { activation, ACTIVATION_NAMES, activationGradientOp } from './activation.ts';

// the erf approximation is off by 1.5e-7 at most, exp and tanh by a few units in the last place
describe.each(ACTIVATION_NAMES)('activation %s', (name) => {
  for (const shape of [[3], [3, 7], [4, 6, 8]]) {
    const inputs = [floats(shape, 1, 5)];
    it(`kernel [${shape}]`, () => checkKernel({ inputs, build: (x) => activation(x, name), tolerance: 1e-6 }));
    it(`gradient's kernel [${shape}]`, () =>
      checkKernel({
        inputs: [...inputs, floats(shape, 2)],
        build: (x, g) => x.graph.apply(activationGradientOp, [x, g], { name }),
        tolerance: 2e-6,
      }));
    it(`gradient [${shape}]`, () => checkGradient({ inputs, build: (x) => activation(x, name) }));
  }
  const far = { shape: [7], data: Float32Array.of(-1e4, -100, -30, 0, 30, 100, 1e4) };
  it('stays finite far out', () => checkKernel({ inputs: [far], build: (x) => activation(x, name), tolerance: 1e-6 }));
  it('has a finite slope far out, and at 0', () =>
    checkKernel({
      inputs: [far, { shape: [7], data: new Float32Array(7).fill(1) }],
      build: (x, g) => x.graph.apply(activationGradientOp, [x, g], { name }),
      tolerance: 2e-6,
    }));
});
