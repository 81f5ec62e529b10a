import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { gradients } from '../../graph/autodiff.ts';
import { Graph } from '../../graph/graph.ts';
import { interpret } from '../../graph/interpret.ts';
import type { Value } from '../../graph/types.ts';
import { checkGradient, checkKernel, floats, type OpInput } from '../../testing.ts';
import { hiddenLoss } from './hidden-loss.ts';

const KINDS = ['mse', 'cosine'] as const;
/** Tokens that count alike, and some that don't. */
const weightsOf = (rows: number): OpInput => ({
  shape: [rows],
  data: Float32Array.from({ length: rows }, (_, row) => (row % 3 === 1 ? 0 : 1 / rows)),
});
const inputsOf = (shape: readonly number[]): OpInput[] => [
  floats(shape, 1),
  // rows far from parallel: of 1 - cos, f32 keeps 1e-7 of 1, not of itself
  floats(shape, 5),
  weightsOf(shape.slice(0, -1).reduce((a, b) => a * b, 1)),
];

// sums of H products of numbers below 1, 8 threads a row: roundings of 2^-24 grow like √H and so do the sums
describe.each(KINDS)('hidden loss: %s', (kind) => {
  const build = (student: Value, teacher: Value, weights: Value): Value => hiddenLoss(student, teacher, weights, kind);
  const both = (student: Value, teacher: Value, weights: Value, g: Value): Value[] => {
    const loss = build(student, teacher, weights);
    const found = gradients(student.graph as Graph, loss, g, [student, teacher]);
    return [loss, found.get(student)!, found.get(teacher)!];
  };
  const seed: OpInput = { shape: [1], data: Float32Array.of(0.7) };
  for (const shape of [
    [1, 3],
    [2, 5, 8],
    [3, 2, 7],
    [1, 1, 260],
    [130, 68],
  ] as const) {
    it(`kernels [${shape}]`, () => checkKernel({ inputs: [...inputsOf(shape), seed], build: both, tolerance: 2e-6 }));
    if (shape[0] < 100)
      it(`gradient [${shape}]`, () => checkGradient({ inputs: inputsOf(shape), build, gradientOf: [0, 1] }));
  }
  // of one number 1 − cos is 0 and so is its gradient, whatever rounding leaves: nothing to compare with
  const least = kind === 'mse' ? 1 : 8;
  it('any shape', () =>
    fc.assert(
      fc.asyncProperty(fc.integer({ min: 1, max: 9 }), fc.integer({ min: least, max: 300 }), (rows, H) =>
        checkKernel({ inputs: [...inputsOf([rows, H]), seed], build: both, tolerance: 5e-6 }),
      ),
      { numRuns: 5 },
    ));
  it('rows of zeros stay finite', () => {
    const zeros = { shape: [2, 4], data: new Float32Array(8) };
    return checkKernel({ inputs: [zeros, floats([2, 4], 1), weightsOf(2), seed], build: both, tolerance: 2e-6 });
  });
});

describe('hidden loss', () => {
  /** Two rows of three, the mean over both. */
  const of = (kind: (typeof KINDS)[number]): number => {
    const graph = new Graph();
    const [s, t] = [graph.input('s', [2, 3]), graph.input('t', [2, 3])];
    const loss = hiddenLoss(s, t, graph.input('w', [2]), kind);
    const bindings = new Map([
      ['s', Float64Array.of(1, 2, 3, -1, 0, 2)],
      ['t', Float64Array.of(2, 0, 3, 1, 1, 1)],
      ['w', Float64Array.of(0.5, 0.5)],
    ]);
    return interpret(graph, bindings, [loss])[0]!.data[0]!;
  };
  // torch.nn.functional.mse_loss, and 1 - cosine_similarity, their means in float64
  it('is what PyTorch says', () => {
    expect(of('mse')).toBeCloseTo(1.8333333333333333, 14);
    expect(of('cosine')).toBeCloseTo(0.4632134309628137, 14);
  });
  it('refuses widths that differ', () => {
    const graph = new Graph();
    const [s, t, w] = [graph.input('s', [2, 3]), graph.input('t', [2, 4]), graph.input('w', [2])];
    expect(() => hiddenLoss(s, t, w, 'mse')).toThrow(/f32\[2, 3\] and f32\[2, 4\]/);
  });
});
