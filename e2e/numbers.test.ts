/**
 * The same numbers in Node and in Chromium: of ops, gradients and a few training steps, each within f32's roundings of
 * float64. Node's tests of kernels run on SwiftShader where it can be had, Chromium brings its own: there the bits are the same
 * too, so what the tests in Node say of a kernel holds in a browser.
 */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { expect, inject, it } from 'vitest';
import { openModule } from './harness.ts';
import type { Numbers } from './numbers.ts';

async function inNode(): Promise<Numbers> {
  const options = { cwd: inject('root'), env: { ...process.env, ...inject('vulkan').env } };
  const { stdout } = await promisify(execFile)(process.execPath, ['e2e/numbers-in-node.mjs'], options);
  return JSON.parse(stdout) as Numbers;
}

async function inPage(): Promise<Numbers> {
  const module = await openModule('e2e/numbers.ts');
  try {
    return await module.call<Numbers>('numbers');
  } finally {
    await module.close();
  }
}

it('gives the same numbers in Node and in Chromium', { timeout: 600_000 }, async () => {
  const [node, page] = [await inNode(), await inPage()];
  console.log(`Node: ${node.adapter}; Chromium: ${page.adapter}`);
  // sums of up to 50 products through some ten ops, forward and back
  for (const { differences } of [node, page])
    for (const [name, off] of Object.entries(differences)) expect(off, name).toBeLessThan(1e-5);
  for (const [name, losses] of Object.entries(node.losses)) {
    expect(losses[2], name).toBeLessThan(losses[0]!);
    losses.forEach((loss, i) => expect(page.losses[name]![i]! / loss, name).toBeCloseTo(1, 5));
  }
  if (/swiftshader/i.test(node.adapter) && /swiftshader/i.test(page.adapter)) expect(page.bits).toEqual(node.bits);
});
