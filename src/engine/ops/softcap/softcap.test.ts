import { describe, expect, it } from 'vitest';
import { Graph } from '../../graph/graph.ts';
import { checkGradient, checkKernel, floats, type OpCase } from '../../testing.ts';
import { softcap } from './softcap.ts';

// x / cap, tanh within two roundings, times cap: 2^-24 each
const TOLERANCE = 3e-7;

describe('softcap', () => {
  const cases: Record<string, OpCase> = {
    'barely bent': { inputs: [floats([3, 5, 7], 1)], build: (x) => softcap(x, 30) },
    'bent, both branches of tanh': { inputs: [floats([40, 40], 2, 5)], build: (x) => softcap(x, 3) },
    saturated: { inputs: [floats([2, 9], 3, 4000)], build: (x) => softcap(x, 30) },
  };
  for (const [name, test] of Object.entries(cases)) {
    it(`kernel: ${name}`, () => checkKernel({ ...test, tolerance: TOLERANCE }));
  }
  it('kernel: more than a binding holds', () =>
    checkKernel({
      inputs: [floats([200, 40], 2, 5)],
      build: (x) => softcap(x, 3),
      tolerance: TOLERANCE,
      maxBinding: 64 * 160,
    }));
  for (const name of ['barely bent', 'bent, both branches of tanh']) {
    it(`gradient: ${name}`, () => checkGradient(cases[name]!));
  }
  it('refuses a cap that bounds nothing', () => {
    const graph = new Graph();
    expect(() => softcap(graph.input('x', [3]), -1)).toThrow('a cap of -1');
  });
});
