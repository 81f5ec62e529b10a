import { expect, it } from 'vitest';
import { checkKernel, floats } from '../../testing.ts';
import { sgd, sgdOps } from './sgd.ts';

const hyper = (maxNorm: number) => Float32Array.of(1e-2, 0.9, 0.99, 1e-8, 0.1, 1, 1, maxNorm);
const norm = { shape: [1], data: Float32Array.of(4) };

// a few f32 operations an element: 2e-6 of the largest entry
for (const size of [1, 63, 4097]) {
  for (const decay of [true, false]) {
    for (const maxNorm of [0, 0.5]) {
      const settings = { shape: [8], data: hyper(maxNorm) };
      const name = `${size} numbers, decay ${decay}, clipped at ${maxNorm}`;
      it(`sgd: ${name}`, () =>
        checkKernel({
          inputs: [floats([size], 1), floats([size], 3), settings, norm],
          states: [0],
          build: (p, g, h, n) => sgd(p!, undefined, g!, h!, n!, { decay }),
          tolerance: 2e-6,
        }));
      it(`sgd with momentum: ${name}`, () =>
        checkKernel({
          inputs: [floats([size], 1), floats([size], 2), floats([size], 3), settings, norm],
          states: [0, 1],
          build: (p, m, g, h, n) => sgd(p!, m!, g!, h!, n!, { decay }),
          tolerance: 2e-6,
        }));
    }
  }
}

const vector = (...data: number[]) => ({ shape: [data.length], data: Float64Array.from(data) });
const GRADIENTS = [vector(0.3, -0.4, 0.1), vector(-0.2, 0.5, 2), vector(0.7, 0.1, -0.3)];
const squared = ({ data }: ReturnType<typeof vector>): number => data.reduce((sum, value) => sum + value * value, 0);

it('sgd gives three steps of torch.optim.SGD(lr=0.1, weight_decay=0.1), clipped at 0.5, in float64', () => {
  let parameter = vector(0.5, -0.25, 1);
  for (const grad of GRADIENTS) {
    const inputs = [parameter, grad, vector(0.1, 0, 0, 0, 0.1, 0, 0, 0.5), vector(squared(grad))];
    parameter = sgdOps.plain.reference!(inputs, { decay: true }, [])[0] as typeof parameter;
  }
  [0.415531246148651, -0.22259098448985637, 0.9324190315369915].forEach((wanted, i) =>
    expect(Math.abs(parameter.data[i]! - wanted)).toBeLessThan(1e-14),
  );
});

it('sgd with momentum gives three steps of torch.optim.SGD(lr=0.1, momentum=0.9, weight_decay=0.1), clipped at 0.5', () => {
  let parameter = vector(0.5, -0.25, 1);
  let m = vector(0, 0, 0);
  for (const grad of GRADIENTS) {
    const inputs = [parameter, m, grad, vector(0.1, 0.9, 0, 0, 0.1, 0, 0, 0.5), vector(squared(grad))];
    [parameter, m] = sgdOps.heavy.reference!(inputs, { decay: true }, []) as [typeof parameter, typeof m];
  }
  [0.3571423075141394, -0.1606085116336016, 0.8464552505590357].forEach((wanted, i) =>
    expect(Math.abs(parameter.data[i]! - wanted)).toBeLessThan(1e-14),
  );
});
