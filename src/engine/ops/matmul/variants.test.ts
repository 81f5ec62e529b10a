/** Every variant that a device may be given, against float64 and against each other. */
import { describe, expect, it } from 'vitest';
import { pack, unpack } from '../../../formats/pack-weights.ts';
import { Graph } from '../../graph/graph.ts';
import { interpret } from '../../graph/interpret.ts';
import { plan } from '../../plan/plan.ts';
import type { Device } from '../../run/device.ts';
import { Arena, Program } from '../../run/program.ts';
import { expectClose, floats, testDevice } from '../../testing.ts';
import { matmul } from './matmul.ts';

const layouts = [
  { transA: false, transB: true },
  { transA: false, transB: false },
  { transA: true, transB: false },
  { transA: true, transB: true },
];

describe('variants of a matmul', () => {
  const limitsOf = async (gpu: boolean): Promise<Device['limits']> => {
    const { limits } = await testDevice();
    return gpu ? { ...limits, subgroupSize: undefined } : limits;
  };
  for (const dtype of ['f32', 'int8', 'f16'] as const)
    for (const layout of layouts)
      for (const [M, N, K] of [
        [64, 64, 64],
        [36, 100, 96],
        [70, 44, 20],
        [33, 17, 9],
      ] as const) {
        const name = `${layout.transA ? 'T' : 'N'}${layout.transB ? 'T' : 'N'} ${M}x${K}x${N} ${dtype}`;
        // blocks of a packed weight lie along its rows
        if (dtype !== 'f32' && (layout.transB ? K : N) % 32 !== 0) continue;
        it(`${name}: float64's numbers, and the same bits in each`, { timeout: 120_000 }, async () => {
          for (const gpu of [true, false]) {
            const limits = await limitsOf(gpu);
            const graph = new Graph();
            const a = floats(layout.transA ? [K, M] : [M, K], 1);
            const b = floats(layout.transB ? [N, K] : [K, N], 2);
            const packed = dtype === 'f32' ? b.data : pack(dtype, b.data as Float32Array);
            const numbers = dtype === 'f32' ? b.data : unpack(dtype, packed as Int32Array, b.data.length);
            const weight = graph.parameter('b', b.shape, { dtype });
            graph.output('y', matmul(graph.input('a', a.shape), weight, layout));
            const safe = plan(graph, limits);
            const { choice } = safe.dispatches[0]!.dispatch;
            const wanted = interpret(
              graph,
              new Map([
                ['a', Float64Array.from(a.data)],
                ['b', Float64Array.from(numbers)],
              ]),
              [graph.outputs.get('y')!],
            )[0]!.data;
            const device = await testDevice();
            const tensors = new Map([['b', device.tensor(weight.type, packed)]]);
            const arena = new Arena(device);
            let first: Float32Array | undefined;
            for (const variant of choice?.variants() ?? []) {
              const tuning = new Map([[choice!.key, variant.name]]);
              const program = await Program.create(device, plan(graph, { ...limits, tuning }), tensors, arena);
              const got = (await program.run({ a: a.data })).get('y') as Float32Array;
              program.free();
              expectClose(got, wanted, 2e-6, variant.name);
              expect(got, variant.name).toEqual((first ??= got));
            }
            arena.free();
            device.freeTensor(tensors.get('b')!);
          }
        });
      }
});
