/** From nothing to the first step: a device, its kernels, one pass. */
import { Device } from '../../../engine/run/device.ts';
import type { Bench } from '../suite.ts';
import { timeGraph } from '../measure.ts';
import { product } from '../shapes.ts';

export async function startupSuite({ gpu, add }: Bench): Promise<void> {
  const start = performance.now();
  const device = await Device.create(gpu);
  add({ suite: 'startup', name: 'a device', ms: performance.now() - start });
  const compiled = performance.now();
  // a size of its own, so that no cache of pipelines knows it
  await timeGraph(device, product(72, 88, 104, 'NT'));
  add({ suite: 'startup', name: 'a matmul compiled and run', ms: performance.now() - compiled });
  device.destroy();
}
