/**
 * The bench: measured rates beside the device's own bounds, the same in Node and in the page. Suites are independent; each adds
 * lines and its part of the summary.
 */
import { Device } from '../../engine/run/device.ts';
import { measureBounds } from './bounds.ts';
import type { BenchReport, BenchResult, BenchSummary, Suite } from './protocol.ts';
import type { FileSource } from '../../formats/byte-source.ts';
import type { Bench } from './suite.ts';
import { attentionSuite } from './suites/attention.ts';
import { cacheSuite } from './suites/cache.ts';
import { matmulSuite } from './suites/matmul.ts';
import { memorySuite } from './suites/memory.ts';
import { opsSuite } from './suites/ops.ts';
import { startupSuite } from './suites/startup.ts';
import { stepSuite } from './suites/step.ts';

const RUN: Readonly<Record<Suite, (bench: Bench) => Promise<void>>> = {
  matmul: matmulSuite,
  attention: attentionSuite,
  step: stepSuite,
  memory: memorySuite,
  cache: cacheSuite,
  startup: startupSuite,
  ops: opsSuite,
};

/**
 * @param onResult hears each line as it is measured
 * @param tell hears what goes on where figures are long in coming
 */
export async function runBench(
  gpu: GPU,
  suites: readonly Suite[],
  model: () => Promise<FileSource>,
  onResult?: (result: BenchResult) => void,
  tell: (words: string) => void = () => undefined,
): Promise<BenchReport> {
  const device = await Device.create(gpu);
  try {
    tell("the device's own bounds");
    const bounds = await measureBounds(device);
    const results: BenchResult[] = [];
    const summary: BenchSummary = {};
    const add = (result: BenchResult): void => {
      results.push(result);
      onResult?.(result);
    };
    for (const suite of suites) {
      tell(`suite ${suite}`);
      await RUN[suite]({ device, gpu, ...bounds, summary, model, add, tell });
    }
    const { vendor, architecture, description, device: name, software } = device.adapter;
    const adapter = { name: description || name || architecture, vendor, architecture, software };
    return { adapter, ...bounds, results, summary };
  } finally {
    device.destroy();
  }
}
