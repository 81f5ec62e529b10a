import { expect, it } from 'vitest';
import { checkKernel, floats } from '../../testing.ts';
import { sgd, sgdOp } from './sgd.ts';

const hyper = (maxNorm: number) => Float32Array.of(1e-2, 0.9, 0.99, 1e-8, 0.1, 1, 1, maxNorm);
const norm = { shape: [1], data: Float32Array.of(4) };

// a few f32 operations an element: 2e-6 of the largest entry
for (const size of [1, 63, 4097]) {
  for (const decay of [true, false]) {
    for (const maxNorm of [0, 0.5]) {
      const settings = { shape: [8], data: hyper(maxNorm) };
      it(`sgd: ${size} numbers, decay ${decay}, clipped at ${maxNorm}`, () =>
        checkKernel({
          inputs: [floats([size], 1), floats([size], 3), settings, norm],
          states: [0],
          build: (p, g, h, n) => sgd(p!, g!, h!, n!, { decay }),
          tolerance: 2e-6,
        }));
    }
  }
}

it('sgd gives three steps of torch.optim.SGD(lr=0.1, weight_decay=0.1), clipped at 0.5, in float64', () => {
  const vector = (...data: number[]) => ({ shape: [data.length], data: Float64Array.from(data) });
  let parameter = vector(0.5, -0.25, 1);
  for (const grad of [vector(0.3, -0.4, 0.1), vector(-0.2, 0.5, 2), vector(0.7, 0.1, -0.3)]) {
    const squared = grad.data.reduce((sum, value) => sum + value * value, 0);
    const inputs = [parameter, grad, vector(0.1, 0, 0, 0, 0.1, 0, 0, 0.5), vector(squared)];
    parameter = sgdOp.reference!(inputs, { decay: true }, [])[0] as typeof parameter;
  }
  [0.415531246148651, -0.22259098448985637, 0.9324190315369915].forEach((wanted, i) =>
    expect(Math.abs(parameter.data[i]! - wanted)).toBeLessThan(1e-14),
  );
});
