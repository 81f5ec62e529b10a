import { describe, expect, it } from 'vitest';
import { Graph } from '../graph/graph.ts';
import { matmul } from '../ops/index.ts';
import { plan } from '../plan/plan.ts';
import { testDevice } from '../testing.ts';
import { nodeGpu } from '../../cli/node-gpu.ts';
import { Device } from '../run/device.ts';
import { selfTest } from './self-test.ts';

/** A device whose compiler gets every kernel wrong of which `spoils` says so. */
async function spoilt(spoils: (code: string) => boolean): Promise<Device> {
  const device = await Device.create(await nodeGpu());
  const compile = device.gpu.createShaderModule.bind(device.gpu);
  device.gpu.createShaderModule = (descriptor) =>
    compile({
      ...descriptor,
      code: spoils(descriptor.code) ? descriptor.code.replaceAll(/\b(fma|dot)\(/g, '$1(1.001 * ') : descriptor.code,
    });
  return device;
}

describe('the self-test', () => {
  it('finds nothing wrong with a device that computes right, and measures it', { timeout: 60_000 }, async () => {
    const device = await testDevice();
    const before = device.liveBytes;
    const { subgroups, flops_per_second, speed } = await selfTest(device);
    expect(subgroups).toBe(true);
    expect(flops_per_second).toBeGreaterThan(1e6);
    for (const figure of Object.values(speed)) expect(figure).toBeGreaterThan(0);
    expect(device.liveBytes).toBe(before);
  });

  it('leaves subgroups alone where they give wrong numbers', { timeout: 60_000 }, async () => {
    const device = await spoilt((code) => code.includes('subgroupBroadcast'));
    const { subgroups } = await selfTest(device);
    expect(subgroups).toBe(false);
    device.learn({ subgroups });
    expect(device.limits.subgroupSize).toBeUndefined();
    device.destroy();
  });

  it('finds the variants that are wrong where a product has kernels of its own', { timeout: 60_000 }, async () => {
    const device = await spoilt((code) => code.includes('var<workgroup> partial'));
    device.learn({ subgroups: false });
    const { refused } = await selfTest(device);
    expect(refused).toEqual(['few-rows', 'split 8 of 4x4', 'split 4 of 4x4', 'split 8 of 2x4']);
    device.learn({ subgroups: false, refused: new Set(refused) });
    const graph = new Graph();
    graph.output('y', matmul(graph.input('a', [2, 512]), graph.input('b', [64, 512]), { transB: true }));
    const { choice } = plan(graph, device.limits).dispatches[0]!.dispatch;
    expect(choice!.variants()[0]!.name).toMatch(/^tile/);
    device.destroy();
  });

  it('refuses a device that computes wrong without them too', { timeout: 60_000 }, async () => {
    const device = await spoilt(() => true);
    await expect(selfTest(device)).rejects.toThrow(/computes wrong numbers.*A newer driver or browser/);
    device.destroy();
  });
});
