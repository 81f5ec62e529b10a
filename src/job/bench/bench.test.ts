/** The bench on the test adapter: every figure is there and is a number that can be true. No time is judged. */
import { describe, expect, it } from 'vitest';
import { nodeFolder } from '../../cli/node-files.ts';
import { nodeGpu } from '../../cli/node-gpu.ts';
import { runBench } from './bench.ts';
import type { BenchResult } from './protocol.ts';

describe('the bench', () => {
  it('measures kernels and the cache beside the bounds of the device', { timeout: 180_000 }, async () => {
    const heard: BenchResult[] = [];
    const report = await runBench(
      await nodeGpu(),
      ['startup', 'cache'],
      () => Promise.resolve(nodeFolder('public/bundled/arithmetic')),
      (result) => heard.push(result),
    );
    expect(report.peak_gflops).toBeGreaterThan(0);
    expect(report.stream_gbps).toBeGreaterThan(0);
    expect(report.results).toEqual(heard);
    expect(heard.map(({ suite }) => suite)).toEqual(expect.arrayContaining(['startup', 'cache']));
    for (const { ms } of heard) expect(ms).toBeGreaterThan(0);
    // more entries a position lose less of the gradient, and cost more
    const caches = heard.filter(({ suite }) => suite === 'cache');
    for (const tail of ['tail in one bucket', 'drawn']) {
      const of = caches.filter(({ name }) => name.endsWith(tail));
      expect(of.length).toBeGreaterThan(1);
      for (let i = 1; i < of.length; i++) {
        expect(of[i]!.gradient_error).toBeLessThan(of[i - 1]!.gradient_error!);
        expect(of[i]!.bytes_per_token).toBeGreaterThan(of[i - 1]!.bytes_per_token!);
      }
    }
  });
});
