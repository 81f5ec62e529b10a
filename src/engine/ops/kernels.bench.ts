/**
 * Rates of the kernels beside the adapter's own multiply-add peak, measured in the same run:
 *   npx vitest bench --run src/engine/ops/kernels.bench.ts
 * Each kernel runs alone, several times over in turn with the peak, and its best time counts: other work on the machine only
 * ever adds time.
 */
import { bench } from 'vitest';
import { gradients } from '../graph/autodiff.ts';
import { Graph } from '../graph/graph.ts';
import type { OpDefinition, Value } from '../graph/types.ts';
import { plan } from '../plan/plan.ts';
import type { Device } from '../run/device.ts';
import { Arena, Program, type HostArray } from '../run/program.ts';
import { noise, testDevice } from '../testing.ts';
import { attention } from './attention/attention.ts';
import { matmulOp } from './matmul/matmul.ts';

const ROUNDS = 6;
const CHAINS = 12;
const STEPS = 4000;
const THREADS = 8192;

/** Twelve independent chains of fused multiply-adds a thread. */
const peakOp: OpDefinition = {
  name: 'peak',
  infer: () => [{ shape: [THREADS], dtype: 'f32' }],
  cost: () => ({ flops: 2 * CHAINS * STEPS * THREADS, bytes: 4 * THREADS }),
  kernel({ inputs: [x], outputs: [out] }) {
    const chains = Array.from({ length: CHAINS }, (_, i) => `c${i}`);
    return [
      {
        label: 'peak',
        bindings: [
          { name: 'x', operand: x!, access: 'read' },
          { name: 'out', operand: out!, access: 'write' },
        ],
        code: `@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) gid: vec3<u32>) {
  let m = x[0];
  let b = x[1];
  ${chains.map((c, i) => `var ${c} = m + ${i}.0;`).join(' ')}
  for (var i = 0u; i < ${STEPS / 4}u; i++) {
    ${Array.from({ length: 4 }, () => chains.map((c) => `${c} = fma(${c}, m, b);`).join(' ')).join('\n    ')}
  }
  out[gid.x] = ${chains.join(' + ')};
}`,
        workgroups: [THREADS / 64, 1, 1],
      },
    ];
  },
};

const tiledOp: OpDefinition = {
  ...matmulOp,
  kernel: (context) => matmulOp.kernel!({ ...context, limits: { ...context.limits, subgroupSize: undefined } }),
} as OpDefinition;

type Build = (graph: Graph) => readonly Value[];

const product =
  (M: number, K: number, N: number, layout: 'NT' | 'NN' | 'TN', op = matmulOp as OpDefinition): Build =>
  (graph) => {
    const transA = layout === 'TN';
    const transB = layout === 'NT';
    const a = graph.input('a', transA ? [K, M] : [M, K]);
    const b = graph.input('b', transB ? [N, K] : [K, N]);
    return graph.apply(op, [a, b], { transA, transB });
  };

const attended =
  (T: number, heads: number, kv_heads: number, head_dim: number, backward: boolean): Build =>
  (graph) => {
    const rows = (name: string, count: number): Value => graph.input(name, [1, T, count * head_dim]);
    const [q, k, v] = [rows('q', heads), rows('k', kv_heads), rows('v', kv_heads)] as [Value, Value, Value];
    const segments = graph.input('segments', [1, T], 'i32');
    const options = { heads, kv_heads, head_dim, scale: head_dim ** -0.5, causal: true };
    const [out] = attention(q, k, v, segments, segments, options);
    if (!backward) return [out];
    return [...gradients(graph, out, rows('g', heads), [q, k, v]).values()];
  };

const CASES: Record<string, Build> = {
  'matmul NT 512x512x512': product(512, 512, 512, 'NT'),
  'matmul NN 512x512x512': product(512, 512, 512, 'NN'),
  'matmul TN 512x512x512': product(512, 512, 512, 'TN'),
  'matmul NT 512x576x1536': product(512, 576, 1536, 'NT'),
  'matmul NN 512x1536x576': product(512, 1536, 576, 'NN'),
  'matmul TN 1536x512x576': product(1536, 512, 576, 'TN'),
  'matmul NT 2048x576x576': product(2048, 576, 576, 'NT'),
  'matmul NT 128x576x49152': product(128, 576, 49152, 'NT'),
  'matmul NN 128x49152x576': product(128, 49152, 576, 'NN'),
  'LoRA down NT 512x576x8': product(512, 576, 8, 'NT'),
  'LoRA up NT 512x8x576': product(512, 8, 576, 'NT'),
  'matmul NT 1x576x49152 (decode)': product(1, 576, 49152, 'NT'),
  'register tiles NT 512x512x512': product(512, 512, 512, 'NT', tiledOp),
  'register tiles TN 512x512x512': product(512, 512, 512, 'TN', tiledOp),
  'attention 512, 9/3 heads of 64': attended(512, 9, 3, 64, false),
  'attention 512, forward and backward': attended(512, 9, 3, 64, true),
};

async function prepare(device: Device, build: Build): Promise<() => Promise<{ ms: number; flops: number }>> {
  const graph = new Graph();
  build(graph).forEach((value, i) => graph.output(`out${i}`, value));
  const ready = plan(graph, device.limits);
  const program = await Program.create(device, ready, new Map(), new Arena(device));
  const inputs: Record<string, HostArray> = {};
  for (const { kind, name, value } of ready.sources) {
    if (kind !== 'input') continue;
    const size = (value.type.shape as number[]).reduce((a, b) => a * b, 1);
    inputs[name] = value.type.dtype === 'i32' ? new Int32Array(size).fill(1) : noise(size, 1);
  }
  return async () => {
    const lines = await program.profile(inputs);
    return { ms: lines.reduce((sum, line) => sum + line.ms, 0), flops: ready.flops };
  };
}

bench(
  'kernels',
  async () => {
    const device = await testDevice();
    const peak = await prepare(device, (graph) => graph.apply(peakOp, [graph.input('x', [2])]));
    const cases = await Promise.all(
      Object.entries(CASES).map(async ([name, build]) => ({ name, run: await prepare(device, build), best: 0, ms: 0 })),
    );
    let peakRate = 0;
    for (let round = 0; round < ROUNDS; round++) {
      const { ms, flops } = await peak();
      peakRate = Math.max(peakRate, flops / ms / 1e6);
      for (const one of cases) {
        const { ms: time, flops: work } = await one.run();
        if (work / time / 1e6 > one.best) Object.assign(one, { best: work / time / 1e6, ms: time });
      }
    }
    const rows = cases.map(({ name, best, ms }) => ({
      kernel: name,
      ms: ms.toFixed(2),
      'GFLOP/s': best.toFixed(2),
      'of peak': (best / peakRate).toFixed(2),
    }));
    console.log(`${device.adapter.description}: multiply-add peak ${peakRate.toFixed(1)} GFLOP/s`);
    console.table(rows);
  },
  { iterations: 1, time: 0, warmupIterations: 0, warmupTime: 0 },
);
