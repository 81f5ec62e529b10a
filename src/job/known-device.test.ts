import { describe, expect, it, vi } from 'vitest';
import { Graph } from '../engine/graph/graph.ts';
import { matmul } from '../engine/ops/index.ts';
import { plan, type Plan } from '../engine/plan/plan.ts';
import type { Device } from '../engine/run/device.ts';
import * as selfTests from '../engine/tune/self-test.ts';
import { openKnownDevice, rememberedSpeed, rememberPace, tuneFor } from './known-device.ts';
import { memoryHost } from './testing.ts';

function planOf(device: Device): Plan {
  const graph = new Graph();
  graph.output('y', matmul(graph.input('a', [64, 64]), graph.input('b', [64, 64])));
  return plan(graph, device.limits);
}

describe('what is known of a device', () => {
  it('is found out once, and kept by adapter and version', { timeout: 120_000 }, async () => {
    const host = await memoryHost(new Map());
    const asked = vi.spyOn(selfTests, 'selfTest');
    const first = await openKnownDevice(host);
    expect(first.flopsPerSecond).not.toBe(2e10);
    const second = await openKnownDevice(host);
    expect(asked).toHaveBeenCalledTimes(1);
    expect(second.flopsPerSecond).toBe(first.flopsPerSecond);
    const speed = await rememberedSpeed(host, first.adapter);
    expect(speed).toMatchObject({ flops_per_second: expect.any(Number) as number, pace: undefined });
    await rememberPace(host, first.adapter, 3);
    await rememberPace(host, first.adapter, 0.5);
    expect(await rememberedSpeed(host, first.adapter)).toEqual({ ...speed, pace: 1.5 });
    await rememberPace(host, first.adapter, 1e4);
    expect((await rememberedSpeed(host, first.adapter))!.pace).toBe(6);
    const third = await openKnownDevice({ ...host, version: '0.0.1' });
    expect(asked).toHaveBeenCalledTimes(2);
    for (const device of [first, second, third]) device.destroy();
    asked.mockRestore();
  });

  it('measures kernels for a run that is long enough, and knows them the next time', { timeout: 120_000 }, async () => {
    const host = await memoryHost(new Map());
    const device = await openKnownDevice(host);
    const short = device.flopsPerSecond * 10;
    const long = device.flopsPerSecond * 3600;
    await tuneFor(host, device, [planOf(device)], short);
    expect(device.limits.tuning!.size).toBe(0);
    await tuneFor(host, device, [planOf(device)], long);
    expect([...device.limits.tuning!.keys()]).toEqual(['matmul NN 64x64x64 f32']);
    const later = await openKnownDevice(host);
    expect(later.limits.tuning).toEqual(device.limits.tuning);
    expect(later.limits.refused!.size).toBe(0);
    device.destroy();
    later.destroy();
  });

  it('opens no device that computes wrong numbers', { timeout: 120_000 }, async () => {
    const host = await memoryHost(new Map());
    const gpu = host.gpu!;
    const spoiling = {
      async requestAdapter(options?: GPURequestAdapterOptions) {
        const adapter = (await gpu.requestAdapter(options))!;
        const request = adapter.requestDevice.bind(adapter);
        adapter.requestDevice = async (descriptor) => {
          const device = await request(descriptor);
          const compile = device.createShaderModule.bind(device);
          device.createShaderModule = (module) =>
            compile({ ...module, code: module.code.replaceAll('fma(', 'fma(1.001 * ') });
          return device;
        };
        return adapter;
      },
    } as GPU;
    await expect(openKnownDevice({ ...host, gpu: spoiling })).rejects.toThrow(/computes wrong numbers/);
  });
});
