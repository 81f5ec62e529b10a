import { describe, expect, it } from 'vitest';
import { checkKernel, expectClose, floats, testDevice, type OpInput } from '../../testing.ts';
import { Graph } from '../../graph/graph.ts';
import { interpret } from '../../graph/interpret.ts';
import { plan } from '../../plan/plan.ts';
import { Arena, Program } from '../../run/program.ts';
import { philoxUniform } from '../philox.ts';
import { draw, proposal } from './draw.ts';
import { linearSample } from './linear-sample.ts';

/** One in each N-th of the distribution. */
function pointsFor(rows: number, N: number, seed = 1): OpInput {
  const at = (i: number): number => ((i % N) + philoxUniform(seed, i)) / N;
  return {
    shape: [1, rows, N],
    data: Float32Array.from({ length: rows * N }, (_, i) => Math.min(at(i), 1 - 2 ** -24)),
  };
}

/** The kernel's answer, and the logits in float64. */
async function drawn(hidden: OpInput, weight: OpInput, points: OpInput, temperatures: readonly number[]) {
  const graph = new Graph();
  const inputs = { hidden, weight, points };
  const [h, w, p] = Object.entries(inputs).map(([name, { shape }]) => graph.input(name, shape));
  const out = linearSample(h!, w!, p!, { temperatures });
  for (const name of ['ids', 'logits', 'log_z'] as const) graph.output(name, out[name]);
  const device = await testDevice();
  const arena = new Arena(device);
  const program = await Program.create(device, plan(graph, device.limits), new Map(), arena);
  const got = await program.run(Object.fromEntries(Object.entries(inputs).map(([name, { data }]) => [name, data])));
  program.free();
  arena.free();
  const bindings = new Map(Object.entries(inputs).map(([name, { data }]) => [name, Float64Array.from(data)]));
  const [, , log_z] = interpret(graph, bindings, [out.ids, out.logits, out.log_z]);
  return { got, log_z: log_z!.data };
}

/** Every point lies on its token, but for `off` of the whole; the logits are the tokens'. */
async function checkLanding(rows: number, H: number, V: number, N: number, temperatures: number[], off: number) {
  const hidden = floats([1, rows, H], 1, 2);
  const weight = floats([V, H], 2);
  const points = pointsFor(rows, N);
  const { got, log_z } = await drawn(hidden, weight, points, temperatures);
  expectClose(got.get('log_z')!, log_z, 1e-6, 'log_z');
  const n = temperatures.length;
  for (let row = 0; row < rows; row++) {
    const z = new Float64Array(V);
    for (let v = 0; v < V; v++)
      for (let h = 0; h < H; h++) z[v]! += (weight.data[v * H + h] as number) * (hidden.data[row * H + h] as number);
    const of = log_z.subarray(row * n, (row + 1) * n);
    const ends = new Float64Array(V);
    let sum = 0;
    for (let v = 0; v < V; v++) ends[v] = sum += proposal(z[v]!, of, temperatures);
    for (let j = row * N; j < (row + 1) * N; j++) {
      const id = got.get('ids')![j]!;
      const point = points.data[j] as number;
      expect(point, `row ${row}, point ${j - row * N}`).toBeGreaterThan((id === 0 ? 0 : ends[id - 1]!) - off);
      expect(point, `row ${row}, point ${j - row * N}`).toBeLessThan(ends[id]! + off);
      expect(Math.abs(got.get('logits')![j]! - z[id]!)).toBeLessThan(1e-5);
    }
  }
}

describe('linear-sample', () => {
  // logits of unit size from 16 products: 1e-6; ids are exact because no point is that close to where a token ends
  const exact: [string, number, number, number, number, number[]][] = [
    ['small', 3, 16, 50, 8, [1]],
    ['more draws than tokens', 2, 16, 7, 40, [1, 2, 5]],
    ['one', 5, 16, 300, 1, [2]],
    ['as many tokens as threads, and one more', 4, 16, 257, 6, [1]],
    ['many draws', 2, 16, 1000, 300, [1, 4]],
  ];
  for (const [name, rows, H, V, N, temperatures] of exact) {
    it(name, () =>
      checkKernel({
        inputs: [floats([1, rows, H], 1), floats([V, H], 2), pointsFor(rows, N)],
        build: (hidden, weight, points) => {
          const { ids, logits, log_z } = linearSample(hidden!, weight!, points!, { temperatures });
          return [logits, log_z, ids];
        },
        tolerance: 1e-6,
      }),
    );
  }
  it('adds a bias', () =>
    checkKernel({
      inputs: [floats([1, 9, 8], 1), floats([700, 8], 2), pointsFor(9, 5), floats([700], 3)],
      build: (hidden, weight, points, bias) => {
        const { ids, logits, log_z } = linearSample(hidden!, weight!, points!, { temperatures: [1, 2] }, bias);
        return [logits, log_z, ids];
      },
      tolerance: 1e-6,
    }));
  it('of soft-capped logits', () =>
    checkKernel({
      inputs: [floats([1, 30, 8], 1, 2), floats([900, 8], 2), pointsFor(30, 6)],
      build: (hidden, weight, points) => {
        const { ids, logits, log_z } = linearSample(hidden!, weight!, points!, { temperatures: [1, 2], softcap: 4 });
        return [logits, log_z, ids];
      },
      tolerance: 1e-6,
    }));
  // 70,000 tokens end everywhere: a point may fall on a neighbour, 1e-6 of the whole away
  it('several chunks of a large vocabulary', { timeout: 60_000 }, () => checkLanding(150, 8, 70_000, 5, [1, 2], 1e-6));
  it('a vocabulary that is known whole, both ends drawn from', async () => {
    const hidden = { shape: [1, 1, 1], data: Float32Array.of(1) };
    const weight = { shape: [4, 1], data: Float32Array.of(-200, 0, Math.log(3), -200) };
    const points = { shape: [1, 1, 4], data: Float32Array.of(0, 0.2499, 0.2501, 1 - 2 ** -24) };
    const { got } = await drawn(hidden, weight, points, [1]);
    expect(Array.from(got.get('ids')!)).toEqual([1, 1, 2, 2]);
  });
});

describe('draw', () => {
  const z = Float64Array.from({ length: 40 }, (_, v) => 3 * Math.sin(v * 12.9898));
  const log = (T: number) => Math.log(z.reduce((sum, value) => sum + Math.exp(value / T), 0));

  it('draws each token as often as the proposal says, at most one more or less than expected', () => {
    const temperatures = [1, 3];
    const log_z = temperatures.map(log);
    const N = 5000;
    const counts = new Array<number>(z.length).fill(0);
    for (const id of draw(z, pointsFor(1, N).data, log_z, temperatures)) counts[id]!++;
    // a token's stretch begins and ends in an N-th: of each of the two it has one point or none
    counts.forEach((count, v) =>
      expect(Math.abs(count - N * proposal(z[v]!, log_z, temperatures)), `${v}`).toBeLessThan(2),
    );
  });

  it('proposes a distribution in which no temperature’s is more than as many times as there are', () => {
    const temperatures = [1, 2, 8];
    const log_z = temperatures.map(log);
    const g = Array.from(z, (value) => proposal(value, log_z, temperatures));
    expect(g.reduce((a, b) => a + b)).toBeCloseTo(1, 12);
    temperatures.forEach((T, t) =>
      z.forEach((value, v) => expect(Math.exp(value / T - log_z[t]!) / g[v]!).toBeLessThanOrEqual(3)),
    );
  });
});
