import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { checkGradient, checkKernel, floats, integers, type OpInput } from '../../testing.ts';
import { gradients } from '../../graph/autodiff.ts';
import { Graph } from '../../graph/graph.ts';
import type { Value } from '../../graph/types.ts';
import { attention, type AttentionOptions } from './attention.ts';

interface Case extends Partial<AttentionOptions> {
  readonly B?: number;
  readonly T: number;
  readonly heads: number;
  readonly kv_heads: number;
  readonly head_dim: number;
  /** Capacity of a cache and rows in it. */
  readonly S?: number;
  readonly past?: number;
  readonly segments?: (row: number, token: number) => number;
}

const optionsOf = (test: Case): AttentionOptions => ({
  heads: test.heads,
  kv_heads: test.kv_heads,
  head_dim: test.head_dim,
  scale: 1 / Math.sqrt(test.head_dim),
  causal: test.causal ?? true,
  window: test.window,
  softcap: test.softcap,
});

function inputsOf(test: Case): OpInput[] {
  const { B = 1, T, S = T, past = 0, heads, kv_heads, head_dim: d, segments = () => 1 } = test;
  const table = (length: number, first: number) =>
    integers(
      [B, length],
      Array.from({ length: B * length }, (_, i) => segments(Math.floor(i / length), first + (i % length))),
    );
  const inputs = [floats([B, T, heads * d], 1, 2), floats([B, S, kv_heads * d], 2, 2), floats([B, S, kv_heads * d], 3)];
  return [...inputs, table(T, past), table(S, 0), ...(test.S === undefined ? [] : [integers([1], [past])])];
}

const forward = (test: Case) => ({
  inputs: inputsOf(test),
  build: (...[q, k, v, qs, ks, past]: Value[]) => attention(q!, k!, v!, qs!, ks!, optionsOf(test), past),
  // scores of some units in f32 (2^-24 each) go through exp; sums over the keys
  tolerance: 3e-6,
  gradientOf: [0, 1, 2],
  through: [0],
});

const backward = (test: Case) => ({
  inputs: [...inputsOf(test), floats([test.B ?? 1, test.T, test.heads * test.head_dim], 4)],
  build: (...[q, k, v, qs, ks, g]: Value[]) => {
    const [out] = attention(q!, k!, v!, qs!, ks!, optionsOf(test));
    const found = gradients(q!.graph as Graph, out, g!, [q!, k!, v!]);
    return [q!, k!, v!].map((value) => found.get(value)!);
  },
  tolerance: 1e-5,
});

/** Two packed rows and padding at the end. */
const packed = (length: number) => (row: number, token: number) =>
  token >= length - 2 - row ? 0 : token < length / 3 ? 1 : 2;

const training: Record<string, Case> = {
  'one token': { T: 1, heads: 1, kv_heads: 1, head_dim: 4 },
  'four tokens, grouped, head of 12': { B: 2, T: 4, heads: 6, kv_heads: 2, head_dim: 12 },
  'one tile, head of 8': { B: 2, T: 19, heads: 6, kv_heads: 2, head_dim: 8 },
  'three tiles, packed, head of 64': { B: 2, T: 70, heads: 3, kv_heads: 1, head_dim: 64, segments: packed(70) },
  'a window': { T: 75, heads: 2, kv_heads: 2, head_dim: 16, window: 7 },
  'a window over tiles': { T: 100, heads: 2, kv_heads: 1, head_dim: 4, window: 40 },
  'both directions, padded': { B: 2, T: 37, heads: 2, kv_heads: 2, head_dim: 16, causal: false, segments: packed(37) },
  'head of 32': { B: 2, T: 33, heads: 4, kv_heads: 2, head_dim: 32 },
  'head of 96': { T: 34, heads: 2, kv_heads: 1, head_dim: 96 },
  'head of 128': { T: 33, heads: 2, kv_heads: 1, head_dim: 128 },
  'head of 80': { T: 33, heads: 2, kv_heads: 1, head_dim: 80 },
  'head of 6': { T: 9, heads: 2, kv_heads: 2, head_dim: 6 },
  'head of 5': { T: 35, heads: 2, kv_heads: 1, head_dim: 5 },
  'head of 256': { T: 40, heads: 1, kv_heads: 1, head_dim: 256 },
};
const cached: Record<string, Case> = {
  'first tokens': { B: 2, T: 6, heads: 4, kv_heads: 2, head_dim: 8, S: 20, past: 0 },
  'more after some': { B: 2, T: 37, heads: 2, kv_heads: 1, head_dim: 16, S: 90, past: 29 },
  'one token': { B: 2, T: 1, heads: 6, kv_heads: 2, head_dim: 12, S: 50, past: 33 },
  'one token, many keys': { T: 1, heads: 3, kv_heads: 1, head_dim: 64, S: 700, past: 600 },
  'one token, full cache': { T: 1, heads: 2, kv_heads: 2, head_dim: 256, S: 40, past: 39 },
  'two tokens, a window': { T: 2, heads: 2, kv_heads: 2, head_dim: 20, S: 60, past: 50, window: 9 },
  'one token, left padding': {
    B: 2,
    T: 1,
    heads: 2,
    kv_heads: 2,
    head_dim: 8,
    S: 30,
    past: 20,
    segments: (row, token) => (token < 3 + row ? 0 : 1),
  },
  'tokens, a window, head of 3': { T: 5, heads: 2, kv_heads: 2, head_dim: 3, S: 64, past: 40, window: 4 },
};

/** Scores are some units large: this cap bends all of them and saturates some. */
const capped = (test: Case): Case => ({ ...test, softcap: 1.5 });

describe('attention', () => {
  for (const [name, test] of Object.entries(training)) {
    it(`kernel: ${name}`, () => checkKernel(forward(test)));
    it(`gradients' kernels: ${name}`, () => checkKernel(backward(test)));
  }
  // what GPUs run: tiles in workgroup memory, and a workgroup a query when there are few
  for (const name of ['one tile, head of 8', 'three tiles, packed, head of 64', 'a window over tiles', 'head of 5']) {
    const test = training[name]!;
    it(`tiles: ${name}`, () => checkKernel({ ...forward(test), subgroups: false }));
    it(`tiles, gradients: ${name}`, () => checkKernel({ ...backward(test), subgroups: false }));
  }
  for (const name of ['more after some', 'one token, many keys', 'two tokens, a window', 'one token, left padding']) {
    it(`tiles, cache: ${name}`, () => checkKernel({ ...forward(cached[name]!), subgroups: false }));
  }
  // the longest rows that training is asked for, within the same tolerances
  const long: Case = { T: 8192, heads: 1, kv_heads: 1, head_dim: 8 };
  for (const subgroups of [true, false])
    describe(`8,192 tokens${subgroups ? '' : ', tiles'}`, { timeout: 300_000 }, () => {
      it('kernel', () => checkKernel({ ...forward(long), subgroups }));
      it("gradients' kernels", () => checkKernel({ ...backward(long), subgroups }));
    });
  for (const [name, test] of Object.entries(cached)) it(`cache: ${name}`, () => checkKernel(forward(test)));
  describe('with soft-capped scores', () => {
    const named = (cases: Record<string, Case>, names: string[]) =>
      names.map((name) => [name, capped(cases[name]!)] as const);
    for (const [name, test] of named(training, [
      'three tiles, packed, head of 64',
      'both directions, padded',
      'head of 256',
    ])) {
      it(`kernel: ${name}`, () => checkKernel(forward(test)));
      it(`gradients' kernels: ${name}`, () => checkKernel(backward(test)));
    }
    for (const [name, test] of named(training, ['four tokens, grouped, head of 12', 'a window over tiles'])) {
      it(`tiles: ${name}`, () => checkKernel({ ...forward(test), subgroups: false }));
      it(`tiles, gradients: ${name}`, () => checkKernel({ ...backward(test), subgroups: false }));
    }
    for (const [name, test] of named(cached, ['more after some', 'one token, full cache', 'two tokens, a window'])) {
      it(`cache: ${name}`, () => checkKernel(forward(test)));
      it(`tiles, cache: ${name}`, () => checkKernel({ ...forward(test), subgroups: false }));
    }
    it('gradient', () =>
      checkGradient(forward(capped({ B: 2, T: 5, heads: 4, kv_heads: 2, head_dim: 4, segments: packed(5) }))));
    it('gradient, a window', () =>
      checkGradient(forward(capped({ T: 7, heads: 2, kv_heads: 1, head_dim: 3, window: 3 }))));
    it('gradient, barely bent', () =>
      checkGradient(forward({ T: 4, heads: 1, kv_heads: 1, head_dim: 2, causal: false, softcap: 50 })));
  });
  for (const test of [
    { B: 2, T: 5, heads: 4, kv_heads: 2, head_dim: 4, segments: packed(5) },
    { T: 7, heads: 2, kv_heads: 1, head_dim: 3, window: 3 },
    { T: 4, heads: 1, kv_heads: 1, head_dim: 2, causal: false },
  ]) {
    it(`gradient: ${JSON.stringify(test)}`, () => checkGradient(forward(test)));
  }
  it('any shape', () =>
    fc.assert(
      fc.asyncProperty(
        fc.record({
          B: fc.integer({ min: 1, max: 2 }),
          T: fc.integer({ min: 1, max: 80 }),
          kv_heads: fc.integer({ min: 1, max: 2 }),
          group: fc.integer({ min: 1, max: 3 }),
          head_dim: fc.constantFrom(4, 8, 12),
          causal: fc.boolean(),
          window: fc.option(fc.integer({ min: 1, max: 50 }), { nil: undefined }),
          softcap: fc.option(fc.constantFrom(1, 50), { nil: undefined }),
        }),
        async ({ group, ...shape }) => {
          const test = { ...shape, heads: shape.kv_heads * group, segments: packed(shape.T) };
          await checkKernel(forward(test));
          await checkKernel(backward(test));
        },
      ),
      { numRuns: 3 },
    ));
  it('gives zeros where nothing is seen', () =>
    checkKernel({ ...forward({ T: 40, heads: 1, kv_heads: 1, head_dim: 8, segments: () => 0 }), tolerance: 0 }));
  it('refuses shapes that do not fit', () => {
    const graph = new Graph();
    const [x, ids] = [graph.input('x', [1, 4, 8]), graph.input('ids', [1, 4], 'i32')];
    const options = { heads: 2, kv_heads: 2, head_dim: 4, scale: 1, causal: true };
    expect(() => attention(x, x, x, ids, ids, { ...options, heads: 3 })).toThrow('not 3 heads of 4');
    expect(() => attention(x, x, x, ids, ids, { ...options, softcap: 0 })).toThrow('a softcap of 0');
    const wide = graph.input('wide', [1, 6, 8]);
    const wideIds = graph.input('wide ids', [1, 6], 'i32');
    expect(() => attention(x, wide, wide, ids, wideIds, options)).toThrow('no past_length');
  });
});
