import { describe, expect, it } from 'vitest';
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
      code: spoils(descriptor.code) ? descriptor.code.replaceAll('fma(', 'fma(1.001 * ') : descriptor.code,
    });
  return device;
}

describe('the self-test', () => {
  it('finds nothing wrong with a device that computes right, and measures it', { timeout: 60_000 }, async () => {
    const device = await testDevice();
    const before = device.liveBytes;
    const { subgroups, flops_per_second } = await selfTest(device);
    expect(subgroups).toBe(true);
    expect(flops_per_second).toBeGreaterThan(1e6);
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

  it('refuses a device that computes wrong without them too', { timeout: 60_000 }, async () => {
    const device = await spoilt(() => true);
    await expect(selfTest(device)).rejects.toThrow(/computes wrong numbers.*A newer driver or browser/);
    device.destroy();
  });
});
