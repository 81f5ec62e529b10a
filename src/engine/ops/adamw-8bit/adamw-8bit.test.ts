import { describe, expect, it } from 'vitest';
import { Graph } from '../../graph/graph.ts';
import { interpret } from '../../graph/interpret.ts';
import type { Value } from '../../graph/types.ts';
import { checkKernel, expectClose, floats, noise, type OpInput } from '../../testing.ts';
import trajectory from './adamw-8bit.fixture.json' with { type: 'json' };
import { adamw8bit, statesOf8bit } from './adamw-8bit.ts';
import { dynamicMap } from './codes.ts';

const hyper = (maxNorm: number): OpInput => ({
  shape: [8],
  data: Float32Array.of(1e-2, 0.9, 0.999, 1e-8, 0.1, 0.1, 0.001, maxNorm),
});
const norm = { shape: [1], data: Float32Array.of(4) };
const words = (size: number, seed: number): OpInput => ({
  shape: [Math.ceil(size / 4)],
  data: Int32Array.from(noise(Math.ceil(size / 4), seed), (value) => Math.floor(value * 2 ** 31)),
});
const largest = (size: number, seed: number): OpInput => {
  const x = floats([2 * Math.ceil(size / 256)], seed);
  return { ...x, data: (x.data as Float32Array).map((value) => Math.abs(value) + 0.1) };
};

describe('adamw-8bit', () => {
  // of m and v, words of four bytes: one other code in any byte is more than 1 / 2^31 of the largest word
  for (const size of [1, 3, 256, 4097]) {
    for (const decay of [true, false]) {
      for (const maxNorm of [0, 0.5]) {
        const gradient = floats([size], 4);
        const at = (states: readonly OpInput[]): Promise<void> =>
          checkKernel({
            inputs: [floats([size], 1), ...states, gradient, hyper(maxNorm), norm],
            states: [0, 1, 2, 3],
            build: (p, m, v, absmax, g, h, n) => adamw8bit(p!, [m!, v!, absmax!], g!, h!, n!, { decay }),
            tolerance: 2e-6,
          });
        it(`${size} numbers, decay ${decay}, clipped at ${maxNorm}`, () =>
          at([words(size, 2), words(size, 3), largest(size, 5)]));
        it(`${size} numbers at the start, decay ${decay}, clipped at ${maxNorm}`, () => {
          const zeros = (like: OpInput): OpInput => ({ shape: like.shape, data: like.data.map(() => 0) });
          return at([words(size, 2), words(size, 3), largest(size, 5)].map(zeros));
        });
      }
    }
  }

  // the moments' words pass into another window elsewhere than the parameter, whose windows are whole rows and whole blocks
  it.each([
    [1027, 16, 8192],
    [601, 50, 26000],
    [777, 33, 34000],
  ])('[%i, %i] in windows of a binding of %i bytes', (rows, columns, maxBinding) => {
    const size = rows * columns;
    return checkKernel({
      inputs: [
        floats([rows, columns], 1),
        words(size, 2),
        words(size, 3),
        largest(size, 5),
        floats([rows, columns], 4),
        hyper(0.5),
        norm,
      ],
      states: [0, 1, 2, 3],
      build: (p, m, v, absmax, g, h, n) => adamw8bit(p!, [m!, v!, absmax!], g!, h!, n!, { decay: true }),
      tolerance: 2e-6,
      maxBinding,
    });
  });

  it('leaves what has no gradient and no moments', () =>
    checkKernel({
      inputs: [
        floats([300], 1),
        { shape: [75], data: new Int32Array(75) },
        { shape: [75], data: new Int32Array(75) },
        { shape: [4], data: new Float32Array(4) },
        { shape: [300], data: new Float32Array(300) },
        hyper(0),
        norm,
      ],
      states: [0, 1, 2, 3],
      build: (p, m, v, absmax, g, h, n) => adamw8bit(p!, [m!, v!, absmax!], g!, h!, n!, { decay: false }),
      tolerance: 0,
    }));
});

/**
 * bitsandbytes 0.50 on a CPU, float32: AdamW8bit on noise(size, 1) by gradients noise(size, 100 + t) · noise(size, 200 + t).
 * Its CPU looks up codes of tiny numbers roughly; the nearest one was put in its place, as its GPU kernels have it.
 */
it('goes where bitsandbytes.optim.AdamW8bit goes in four steps', () => {
  const { size, steps, every } = trajectory;
  const graph = new Graph();
  const given = new Map([['p', Float64Array.from(noise(size, 1))]]);
  const kept = Object.entries(statesOf8bit(size)).map(([name, { shape, dtype }]) => {
    given.set(name, new Float64Array(shape[0] as number));
    return graph.state(name, shape, dtype);
  });
  const [p, g, h, n] = [
    graph.state('p', [size]),
    ...['g', 'h', 'n'].map((name) => graph.input(name, name === 'g' ? [size] : name === 'h' ? [8] : [1])),
  ];
  const built = adamw8bit(p!, kept as [Value, Value, Value], g!, h!, n!, { decay: true });
  given.set('n', Float64Array.of(0));
  for (let t = 0; t < steps; t++) {
    const [a, b] = [noise(size, 100 + t), noise(size, 200 + t)];
    given.set(
      'g',
      Float64Array.from(a, (value, i) => Math.fround(value * b[i]!)),
    );
    given.set('h', Float64Array.of(0.01, 0.9, 0.999, 1e-8, 0.1, 1 - 0.9 ** (t + 1), 1 - 0.999 ** (t + 1), 0));
    interpret(graph, given, built);
  }
  const byteOf = (name: string, i: number): number => (given.get(name)![i >> 2]! >> (8 * (i & 3))) & 255;
  const places = trajectory.parameter.map((_, k) => k * every);
  for (const name of ['m', 'v'] as const) {
    expect(
      places.map((i) => byteOf(name, i)),
      name,
    ).toEqual(trajectory[name]);
  }
  expectClose(given.get('absmax')!, trajectory.absmax, 1e-6, 'absmax');
  expectClose(
    places.map((i) => given.get('p')![i]!),
    trajectory.parameter,
    1e-6,
    'parameter',
  );
});

// numbers by bitsandbytes.functional.create_dynamic_map(signed), float32
describe('dynamic map', () => {
  it.each([true, false])('signed %s: 256 numbers in order, between their bounds', (signed) => {
    const map = dynamicMap(signed);
    expect(map).toHaveLength(256);
    expect([...map].every((value, i) => i === 0 || value > map[i - 1]!)).toBe(true);
    expect(map[255]).toBe(1);
    expect(map[signed ? 127 : 0]).toBe(0);
    expect(map[254]).toBeCloseTo(signed ? 1 - 0.9 / 128 : 1 - 0.9 / 256, 6);
    expect(map[signed ? 128 : 1]).toBeCloseTo(signed ? 5.5e-7 : 3.25e-7, 12);
    if (signed) expect(map[0]).toBeCloseTo(-(1 - 0.9 / 128), 6);
  });
});
