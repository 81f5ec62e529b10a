import { describe, expect, it } from 'vitest';
import { gradients } from '../../graph/autodiff.ts';
import { Graph } from '../../graph/graph.ts';
import { checkKernel, floats } from '../../testing.ts';
import { mul } from '../mul/mul.ts';
import { sumAll } from '../sum-all/sum-all.ts';
import { inverseNorms } from './inverse-norms.ts';

// sums of up to 130 squares, an inverse square root good to two units
describe('inverseNorms', () => {
  for (const shape of [
    [1, 1],
    [5, 130],
    [64, 24],
  ]) {
    for (const columns of [false, true]) {
      it(`kernel [${shape}]${columns ? ', columns' : ''}`, () =>
        checkKernel({
          inputs: [floats(shape, 1), floats(shape, 2)],
          build: (w, delta) => inverseNorms(w, delta, { scaling: 0.5, columns }),
          tolerance: 2e-6,
        }));
    }
  }
  it.each([false, true])('kernel [333, 130] in windows of a smaller binding, columns %s', (columns) =>
    checkKernel({
      inputs: [floats([333, 130], 1), floats([333, 130], 2)],
      build: (w, delta) => inverseNorms(w, delta, { scaling: 0.5, columns }),
      tolerance: 2e-6,
      maxBinding: 160 * 130 * 4,
    }),
  );
  it('a row of zeros stays finite', () =>
    checkKernel({
      inputs: [
        { shape: [2, 2], data: Float32Array.of(0, 0, 3, 4) },
        { shape: [2, 2], data: new Float32Array(4) },
      ],
      build: (w, delta) => inverseNorms(w, delta, { scaling: 1, columns: false }),
      tolerance: 2e-6,
    }));
  it('is a constant to the gradient', () => {
    const graph = new Graph();
    const [w, m] = [graph.input('w', [3, 4]), graph.input('m', [3])];
    const loss = sumAll(mul(m, inverseNorms(w, w, { scaling: 1, columns: false })));
    expect([...gradients(graph, loss, graph.input('one', [1]), [w, m]).keys()]).toEqual([m]);
  });
});
