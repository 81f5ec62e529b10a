import { describe, expect, it } from 'vitest';
import { Graph } from '../../graph/graph.ts';
import { interpret } from '../../graph/interpret.ts';
import { checkKernel, expectClose, floats, type OpInput } from '../../testing.ts';
import { adafactor } from './adafactor.ts';
import trajectory from './adafactor.fixture.json' with { type: 'json' };

const hyper = (maxNorm: number): OpInput => ({
  shape: [8],
  data: Float32Array.of(1e-2, 0, 0, 0, 0.1, 1, 0.3, maxNorm),
});
const norm = { shape: [1], data: Float32Array.of(4) };
const positive = (size: number, seed: number): OpInput => {
  const x = floats([size], seed);
  return { ...x, data: (x.data as Float32Array).map((value) => Math.abs(value) + 0.1) };
};

// chains of at most a few hundred f32 sums, two roots and divisions an element
describe('adafactor', () => {
  for (const decay of [true, false]) {
    for (const maxNorm of [0, 0.5]) {
      for (const [rows, columns] of [
        [1, 1],
        [3, 130],
        [300, 5],
        [67, 64],
      ] as const) {
        it(`[${rows}, ${columns}], decay ${decay}, clipped at ${maxNorm}`, () =>
          checkKernel({
            inputs: [
              floats([rows, columns], 1),
              positive(rows, 2),
              positive(columns, 3),
              floats([rows, columns], 4),
              hyper(maxNorm),
              norm,
            ],
            states: [0, 1, 2],
            build: (p, row, col, g, h, n) => adafactor(p!, [row!, col!], g!, h!, n!, { decay }),
            tolerance: 3e-6,
          }));
      }
      for (const size of [1, 63, 4097]) {
        it(`[${size}], decay ${decay}, clipped at ${maxNorm}`, () =>
          checkKernel({
            inputs: [floats([size], 1), positive(size, 2), floats([size], 3), hyper(maxNorm), norm],
            states: [0, 1],
            build: (p, v, g, h, n) => adafactor(p!, [v!], g!, h!, n!, { decay }),
            tolerance: 3e-6,
          }));
      }
    }
  }

  // windows of 64 rows and more, blocks of 10 rows that windows cut
  it.each([
    [600, 33],
    [601, 130],
  ])('[%i, %i] in windows of a smaller binding', (rows, columns) =>
    checkKernel({
      inputs: [
        floats([rows, columns], 1),
        positive(rows, 2),
        positive(columns, 3),
        floats([rows, columns], 4),
        hyper(0.5),
        norm,
      ],
      states: [0, 1, 2],
      build: (p, row, col, g, h, n) => adafactor(p!, [row!, col!], g!, h!, n!, { decay: true }),
      tolerance: 3e-6,
      maxBinding: 300 * columns * 4,
    }),
  );

  // written with nine digits
  it('goes where transformers.Adafactor goes in five steps (fixture: transformers 5.24 in float64)', () => {
    const graph = new Graph();
    const given = new Map<string, Float64Array>();
    const of = (name: string, shape: number[], data: number[] = []): ReturnType<Graph['state']> => {
      given.set(name, data.length > 0 ? Float64Array.from(data) : new Float64Array(shape.reduce((a, b) => a * b)));
      return graph.state(name, shape);
    };
    const matrix = [of('matrix', [5, 7], trajectory.matrix), of('row', [5]), of('col', [7])] as const;
    const vector = [of('vector', [6], trajectory.vector), of('v', [6])] as const;
    const [ofMatrix, ofVector] = [graph.input('matrix gradient', [5, 7]), graph.input('vector gradient', [6])];
    const [settings, squares] = [graph.input('hyper', [8]), graph.input('norm', [1])];
    const built = [
      ...adafactor(matrix[0], [matrix[1], matrix[2]], ofMatrix, settings, squares, { decay: true }),
      ...adafactor(vector[0], [vector[1]], ofVector, settings, squares, { decay: true }),
    ];
    given.set('norm', Float64Array.of(0));
    trajectory.gradients.forEach(([first, second], step) => {
      given.set('matrix gradient', Float64Array.from(first!));
      given.set('vector gradient', Float64Array.from(second!));
      const { learning_rate, weight_decay } = trajectory;
      given.set('hyper', Float64Array.of(learning_rate, 0, 0, 0, weight_decay, 1, (step + 1) ** -0.8, 0));
      interpret(graph, given, built);
    });
    const { matrix_after, row, col, vector_after, v } = trajectory;
    for (const [name, wanted] of Object.entries({ matrix: matrix_after, row, col, vector: vector_after, v })) {
      expect(wanted.every(Number.isFinite)).toBe(true);
      expectClose(given.get(name)!, wanted, 1e-8, name);
    }
  });
});
