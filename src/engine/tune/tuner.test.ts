import { describe, expect, it } from 'vitest';
import { EngineError } from '../errors.ts';
import { Graph } from '../graph/graph.ts';
import { matmul } from '../ops/index.ts';
import { plan, type Plan } from '../plan/plan.ts';
import type { Device } from '../run/device.ts';
import { testDevice } from '../testing.ts';
import { tune } from './tuner.ts';

const SHAPES = [
  [64, 96, 64],
  [40, 48, 80],
] as const;

/** Products as a GPU's plan has them (no subgroups of a CPU), and as this device's has. */
async function products(gpu: boolean): Promise<Plan> {
  const { limits } = await testDevice();
  const graph = new Graph();
  SHAPES.forEach(([M, K, N], i) => {
    const a = graph.input(`a${i}`, [M, K]);
    graph.output(
      `y${i}`,
      matmul(a, graph.parameter(`w${i}`, [N, K], { dtype: i === 0 ? 'int8' : 'f32' }), { transB: true }),
    );
  });
  return plan(graph, gpu ? { ...limits, subgroupSize: undefined } : limits);
}

describe('the tuner', () => {
  it.each([true, false])('measures every variant of every choice and keeps the fastest (as a GPU: %s)', async (gpu) => {
    const device = await testDevice();
    const before = device.liveBytes;
    const planned = await products(gpu);
    const { fastest, times, wrong } = await tune(device, [planned], 60_000);
    expect([...wrong]).toEqual([]);
    expect([...fastest.keys()]).toEqual(['matmul NT 64x96x64 int8', 'matmul NT 40x48x80 f32']);
    for (const { dispatch } of planned.dispatches) {
      const { key, variants } = dispatch.choice!;
      expect(variants().map(({ name }) => name)).toContain(fastest.get(key));
      expect(times.get(key)!.fastest).toBeLessThanOrEqual(times.get(key)!.safe);
    }
    expect(device.liveBytes).toBe(before);
  });

  // a block begins with two halves here, which bits of an f32 are only by chance
  it.each(['uint8', 'uint4'] as const)('finds no variant wrong that reads %s', async (dtype) => {
    const device = await testDevice();
    const graph = new Graph();
    graph.output('y', matmul(graph.input('a', [36, 96]), graph.parameter('w', [96, 64], { dtype })));
    const { fastest, wrong } = await tune(device, [plan(graph, { ...device.limits, subgroupSize: undefined })], 60_000);
    expect([...fastest.keys()]).toEqual([`matmul NN 36x96x64 ${dtype}`]);
    expect([...wrong]).toEqual([]);
  });

  it('changes what a plan dispatches, and does not measure again what is known', async () => {
    const device = await testDevice();
    const { limits } = device;
    const graph = (): Graph => {
      const graph = new Graph();
      graph.output('y', matmul(graph.input('a', [64, 64]), graph.input('b', [64, 64])));
      return graph;
    };
    const code = (tuning?: Map<string, string>): string =>
      plan(graph(), { ...limits, subgroupSize: undefined, tuning }).dispatches[0]!.dispatch.code;
    const key = 'matmul NN 64x64x64 f32';
    expect(code(new Map([[key, 'shared 32x32 by 4x4']]))).toContain('panel_a');
    expect(code(new Map([[key, 'tile 4x4']]))).toBe(code());
    expect(code(new Map([[key, 'a variant of another version']]))).toBe(code());
    const known = plan(graph(), { ...limits, tuning: new Map([[key, 'tile 4x4']]) });
    const knowing = Object.create(device, { limits: { value: { ...limits, tuning: new Map([[key, 'tile 4x4']]) } } });
    expect((await tune(knowing, [known], 60_000)).fastest.size).toBe(0);
  });

  it('spends no more than it may: a choice that was not measured whole is left open', async () => {
    const device = await testDevice();
    let asked = 0;
    const clock = (): number => 1000 * asked++;
    const { fastest } = await tune(device, [await products(true)], 3500, clock);
    expect([...fastest.keys()]).toEqual([]);
    expect(asked).toBeLessThan(8);
  });

  it('never takes a variant that gives other numbers', async () => {
    const device = await testDevice();
    const planned = await products(true);
    const { dispatch } = planned.dispatches[0]!;
    const [safe, other] = dispatch.choice!.variants();
    const broken = { ...other!.dispatch, code: other!.dispatch.code.replace(/fma\(/, 'fma(1.01 * ') };
    const choice = {
      key: 'broken',
      variants: () => [
        {
          ...safe!,
          dispatch: {
            ...safe!.dispatch,
            code: safe!.dispatch.code.replace(/for \(/, 'for (var slow = 0u; slow < 9u; slow++) {}\n  for ('),
          },
        },
        { name: 'broken', dispatch: broken },
      ],
    };
    const tampered = {
      ...planned,
      dispatches: [{ dispatch: { ...dispatch, choice }, op: 'matmul', flops: 1, bytes: 1 }],
    };
    const { fastest, wrong } = await tune(device, [tampered], 60_000);
    expect([...wrong]).toEqual(['broken']);
    expect(fastest.get('broken')).toBe(safe!.name);
  });

  it('leaves a choice open for which memory is short', async () => {
    const device = await testDevice();
    const full = Object.create(device, {
      guarded: { value: () => Promise.reject(new EngineError('out-of-memory')) },
    }) as Device;
    expect((await tune(full, [await products(true)], 60_000)).fastest.size).toBe(0);
  });
});
