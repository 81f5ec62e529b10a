import { describe, it } from 'vitest';
import { checkGradient, checkKernel, floats, noise } from '../../testing.ts';
import { Graph } from '../../graph/graph.ts';
import { siluMul, siluMulGradientOp } from './silu-mul.ts';

// exp of an f32 argument is good to a few units in the last place
describe('siluMul', () => {
  for (const shape of [[1], [3, 5], [2, 3, 8]]) {
    const inputs = [floats(shape, 1, 6), floats(shape, 2, 2)];
    it(`kernel [${shape}]`, () => checkKernel({ inputs, build: siluMul, tolerance: 1e-6 }));
    it(`gradient [${shape}]`, () => checkGradient({ inputs, build: siluMul }));
    it(`gradient's kernel [${shape}]`, () =>
      checkKernel({
        inputs: [...inputs, floats(shape, 3)],
        build: (gate, up, g) => gate.graph.apply(siluMulGradientOp, [gate, up, g]),
        tolerance: 1e-6,
      }));
  }
  it('stays finite far out', () =>
    checkKernel({
      inputs: [
        { shape: [6], data: Float32Array.of(-1e4, -200, -90, 90, 200, 1e4) },
        { shape: [6], data: noise(6, 4) },
      ],
      build: siluMul,
      tolerance: 1e-6,
    }));
  it('refuses two shapes', ({ expect }) => {
    const graph = new Graph();
    expect(() => siluMul(graph.input('a', [3]), graph.input('b', [4]))).toThrow('f32[3] and f32[4]');
  });
});
