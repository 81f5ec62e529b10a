import { describe, it } from 'vitest';
import { checkGradient, checkKernel, floats, type OpCase } from '../../testing.ts';
import { mul } from '../mul/mul.ts';
import { addScaled, scale, scaleBy } from './scale.ts';

// one or two roundings of 2^-24 each
describe('scale, scaleBy, addScaled, mul', () => {
  const cases: Record<string, OpCase> = {
    'scale, odd size': { inputs: [floats([3, 5, 7], 1)], build: (x) => scale(x, -2.5) },
    'scale, vec4': { inputs: [floats([2, 8], 1)], build: (x) => scale(x, 1 / 3) },
    'scaleBy, odd size': { inputs: [floats([3, 7], 2), floats([1], 3)], build: scaleBy },
    'scaleBy, vec4': { inputs: [floats([4, 4], 2), floats([1], 3)], build: scaleBy },
    'addScaled, one': { inputs: [floats([1], 4), floats([1], 5)], build: (a, b) => addScaled(a, b, 2) },
    'addScaled, vec4': { inputs: [floats([2, 3, 4], 4), floats([2, 3, 4], 5)], build: (a, b) => addScaled(a, b, 0.5) },
    'mul, odd size': { inputs: [floats([3, 7], 6), floats([3, 7], 7)], build: mul },
    'mul, vec4': { inputs: [floats([3, 8], 6), floats([3, 8], 7)], build: mul },
    'mul, by the last axis': { inputs: [floats([2, 3, 5], 6), floats([5], 7)], build: mul },
  };
  for (const [name, test] of Object.entries(cases)) {
    it(`kernel: ${name}`, () => checkKernel({ ...test, tolerance: 2e-7 }));
    it(`gradient: ${name}`, () => checkGradient(test));
  }
});
