import { describe, expect, it } from 'vitest';
import { Graph } from '../../engine/graph/graph.ts';
import { interpret } from '../../engine/graph/interpret.ts';
import { sizeOf, type Value } from '../../engine/graph/types.ts';
import {
  activation,
  add,
  addScaled,
  attention,
  concat,
  embedding,
  layernorm,
  matmul,
  mul,
  positions,
  rmsnorm,
  rotary,
  scale,
  siluMul,
  softcap,
  split,
} from '../../engine/ops/index.ts';
import { ACTIVATION_NAMES } from '../../engine/ops/activation/activation.ts';
import { expectClose, noise } from '../../engine/testing.ts';
import { collect } from '../export-model.ts';
import { ort } from '../export.testing.ts';
import { encodeOnnx } from './encode.ts';
import { lower } from './lower.ts';
import type { Flavour } from './lowering.ts';
import { precisions } from './precision/index.ts';
import type { Precision } from './precision/precision.ts';
import { q8Precision } from './precision/q8.ts';

/** Runs what a graph is written as, and the graph itself in float64, on the same numbers. */
async function judge(
  build: (graph: Graph) => Value,
  tolerance: number,
  {
    precision = precisions.fp32,
    flavour,
    ids = {},
  }: { precision?: Precision; flavour?: Flavour; ids?: Record<string, number[]> } = {},
): Promise<void> {
  const graph = new Graph();
  graph.output('out', build(graph));
  const bindings = new Map<string, Float64Array>();
  const feeds: Record<string, InstanceType<typeof ort.Tensor>> = {};
  let seed = 1;
  for (const [name, { kind, value }] of graph.sources) {
    const shape = value.type.shape as number[];
    const data = ids[name] ? Float32Array.from(ids[name]) : noise(sizeOf(shape), seed++);
    bindings.set(name, Float64Array.from(data));
    if (kind !== 'input') continue;
    feeds[name] =
      value.type.dtype === 'i32'
        ? new ort.Tensor(
            'int64',
            BigInt64Array.from(data, (id) => BigInt(id)),
            shape,
          )
        : new ort.Tensor('float32', data, shape);
  }
  const weights = { readF32: async (name: string) => Float32Array.from(bindings.get(name)!) };
  const [file] = encodeOnnx(lower(graph, weights, { precision, flavour }), 'model.onnx');
  const session = await ort.InferenceSession.create(await collect(file!.data(), file!.bytes), {
    executionProviders: ['wasm'],
    logSeverityLevel: 3,
  });
  const used = Object.fromEntries(session.inputNames.map((name) => [name, feeds[name]!]));
  const got = (await session.run(used)).out!.data as Float32Array;
  await session.release();
  expectClose(got, interpret(graph, bindings, [graph.outputs.get('out')!])[0]!.data, tolerance, 'the file');
}

const [B, T] = [2, 5];
const x = (graph: Graph, width: number, name = 'x'): Value => graph.input(name, [B, T, width]);

// float32 sums of some dozen terms
const F32 = 2e-6;

describe('each op as ONNX computes what its float64 reference does', () => {
  const cases: Record<string, (graph: Graph) => Value> = {
    'matmul with a Linear’s weight': (g) => matmul(x(g, 12), g.parameter('w', [7, 12]), { transB: true }),
    'matmul with a Conv1D’s weight': (g) => matmul(x(g, 12), g.parameter('w', [12, 7])),
    'matmul of two activations, turned': (g) => matmul(g.input('x', [6, 4]), g.input('y', [5, 4]), { transB: true }),
    'add, a bias': (g) => add(x(g, 6), g.parameter('b', [6])),
    'add, a residual': (g) => add(x(g, 6), x(g, 6, 'y')),
    'add-scaled': (g) => addScaled(x(g, 6), x(g, 6, 'y'), -1.5),
    mul: (g) => mul(x(g, 6), x(g, 6, 'y')),
    scale: (g) => scale(x(g, 6), 0.3),
    softcap: (g) => softcap(scale(x(g, 6), 9), 3),
    'silu-mul': (g) => siluMul(x(g, 6), x(g, 6, 'y')),
    ...Object.fromEntries(ACTIVATION_NAMES.map((name) => [name, (g: Graph) => activation(x(g, 6), name)])),
    layernorm: (g) => layernorm(x(g, 12), g.parameter('w', [12]), g.parameter('b', [12]), { eps: 1e-5 }),
    'split, its middle': (g) => split(x(g, 12), [3, 4, 5])[1]!,
    concat: (g) => concat([x(g, 3), x(g, 5, 'y')]),
    rmsnorm: (g) => rmsnorm(x(g, 12), g.parameter('w', [12]), { eps: 1e-6 }),
    'rmsnorm, 1 + w': (g) => rmsnorm(x(g, 12), g.parameter('w', [12]), { eps: 1e-6, offset: 1 }),
  };
  for (const [name, build] of Object.entries(cases)) it(name, () => judge(build, F32));

  it('embedding', () =>
    judge((g) => embedding(g.parameter('w', [9, 6]), g.input('ids', [B, T], 'i32')), 0, {
      ids: { ids: [0, 8, 3, 3, 1, 7, 2, 5, 0, 4] },
    }));

  it('positions', () =>
    judge((g) => add(x(g, 6), embedding(g.parameter('w', [9, 6]), positions(g.input('ids', [B, T], 'i32')))), F32, {
      ids: { ids: new Array<number>(B * T).fill(1) },
    }));

  for (const dims of [8, 4]) {
    it(`rotary, ${dims} of 8 dimensions of a head`, () => {
      const table = (f: (angle: number) => number): Float32Array =>
        Float32Array.from({ length: 16 * (dims / 2) }, (_, i) => f(i * 0.1));
      return judge(
        (g) =>
          rotary(
            x(g, 24),
            g.constant('cos', [16, dims / 2], table(Math.cos)),
            g.constant('sin', [16, dims / 2], table(Math.sin)),
            g.input('positions', [B, T], 'i32'),
            { head_dim: 8 },
          ),
        F32,
        { ids: { positions: [0, 1, 2, 3, 4, 9, 10, 11, 12, 15] } },
      );
    });
  }

  for (const [what, last] of [
    ['of the tables', 5],
    ['longer than the tables', 40],
  ] as const) {
    it(`rotary under dynamic scaling, a batch ${what}`, () => {
      const [P, R] = [6, 4];
      const table = (turn: (angle: number) => number): Float32Array =>
        Float32Array.from({ length: P * R }, (_, i) => turn(Math.floor(i / R) / 100 ** ((i % R) / R)));
      return judge(
        (g) =>
          rotary(
            x(g, 24),
            g.constant('cos', [P, R], table(Math.cos)),
            g.constant('sin', [P, R], table(Math.sin)),
            g.input('positions', [B, T], 'i32'),
            { head_dim: 8, stretch: [100, 3] },
          ),
        F32,
        { ids: { positions: [0, 1, 2, 3, 4, 1, 2, 3, 4, last] } },
      );
    });
  }

  for (const [heads, kv_heads] of [
    [4, 4],
    [6, 2],
    [4, 1],
  ] as const) {
    for (const window of [undefined, 3]) {
      it(`attention, ${heads} heads over ${kv_heads}${window ? `, window ${window}` : ''}`, () =>
        judge(
          (g) => {
            const segments = g.input('segments', [B, T], 'i32');
            const attributes = { heads, kv_heads, head_dim: 4, scale: 0.5, causal: true, window };
            return attention(
              x(g, heads * 4),
              x(g, kv_heads * 4, 'k'),
              x(g, kv_heads * 4, 'v'),
              segments,
              segments,
              attributes,
            )[0];
          },
          F32,
          { ids: { segments: new Array<number>(B * T).fill(1) } },
        ));
    }
  }

  it.each<Flavour>(['ort', 'standard'])('attention with soft-capped scores, %s', (flavour) =>
    judge(
      (g) => {
        const segments = g.input('segments', [B, T], 'i32');
        const attributes = { heads: 6, kv_heads: 2, head_dim: 4, scale: 2, causal: true, window: 3, softcap: 1.5 };
        return attention(x(g, 24), x(g, 8, 'k'), x(g, 8, 'v'), segments, segments, attributes)[0];
      },
      F32,
      { flavour, ids: { segments: new Array<number>(B * T).fill(1) } },
    ),
  );

  it('attention that sees both ways', () =>
    judge(
      (g) => {
        const segments = g.input('segments', [B, T], 'i32');
        const attributes = { heads: 4, kv_heads: 2, head_dim: 4, scale: 0.5, causal: false };
        return attention(x(g, 16), x(g, 8, 'k'), x(g, 8, 'v'), segments, segments, attributes)[0];
      },
      F32,
      { ids: { segments: new Array<number>(B * T).fill(1) } },
    ));
});

describe('a weight in each precision', () => {
  // rounding of the weights: 2^-11, 1/254 and 1/16 of a row's or block's largest entry, averaged over 80 terms
  const allowed: [string, Precision, number, Flavour?][] = [
    ['fp32', precisions.fp32, F32],
    ['fp16', precisions.fp16, 1e-3],
    ['q8', precisions.q8, 1e-2],
    ['q8 by integers', q8Precision(0), 1e-2],
    ['q4', precisions.q4, 0.15],
    ['q4f16', precisions.q4f16, 0.15],
    ['q4 in plain operators', precisions.q4, 0.15, 'standard'],
    ['q4f16 in plain operators', precisions.q4f16, 0.15, 'standard'],
  ];
  for (const [name, precision, tolerance, flavour] of allowed) {
    it(`${name}: Linear, not a whole number of blocks`, () =>
      judge((g) => matmul(x(g, 80), g.parameter('w', [48, 80]), { transB: true }), tolerance, { precision, flavour }));
    it(`${name}: Conv1D`, () =>
      judge((g) => matmul(x(g, 64), g.parameter('w', [64, 48])), tolerance, { precision, flavour }));
    it(`${name}: a head tied to the embedding`, () =>
      judge(
        (g) => {
          const table = g.parameter('w', [40, 80]);
          return matmul(embedding(table, g.input('ids', [B, T], 'i32')), table, { transB: true });
        },
        tolerance,
        { precision, flavour, ids: { ids: [0, 39, 3, 3, 1, 7, 2, 5, 0, 4] } },
      ));
  }
});

it('names what cannot be written', async () => {
  const graph = new Graph();
  const strange = {
    name: 'strange',
    infer: () => [{ shape: [1], dtype: 'f32' as const }],
    cost: () => ({ flops: 0, bytes: 0 }),
  };
  graph.output('y', graph.apply(strange, [graph.input('x', [1])])[0]!);
  expect(() => lower(graph, { readF32: async () => new Float32Array(1) }, { precision: precisions.fp32 })).toThrow(
    `'strange' cannot be written as ONNX yet`,
  );
});
