/** `npm start -- bench`: measured rates beside the device's own bounds, by the engine in Node or by the page in a browser. */
import path from 'node:path';
import { InputError } from '../formats/input-error.ts';
import { runBench } from '../job/bench/bench.ts';
import { MAIN_SUITES, SUITES, type BenchReport, type BenchResult, type Suite } from '../job/bench/protocol.ts';
import { say, type Command, type House, type Values } from './command.ts';
import { nearestFirst, text } from './flags.ts';
import { nodeFolder } from './node-files.ts';
import { nodeGpu } from './node-gpu.ts';
import { benchInBrowser } from './bench-in-browser.ts';
import { writeFileWhole } from './write-file.ts';

const usage = `bench [${SUITES.join(' ')}] [--on node|browser] [--model DIR] [--json FILE]`;

export const command: Command = {
  usage,
  flags: { on: { type: 'string' }, json: { type: 'string' }, model: { type: 'string' } },
  positionals: [0, SUITES.length],
  run,
};

async function run(names: string[], values: Values, house: House): Promise<number> {
  const suites = names.length > 0 ? [...new Set(names.map(suiteOf))] : MAIN_SUITES;
  const on = text(values, 'on') ?? 'node';
  if (on !== 'node' && on !== 'browser') throw new InputError('command line', '--on', `"${on}"`, 'node or browser');
  const model = text(values, 'model');
  const json = text(values, 'json');
  if (on === 'browser' && model !== undefined)
    throw new InputError('command line', '--model', 'the page measures its own', 'no --model with --on browser');
  const folder = model ?? path.join(house.root, 'public/bundled/arithmetic');

  const tell = (result: BenchResult): void => say(line(result));
  const report =
    on === 'browser'
      ? await benchInBrowser(house, suites, tell)
      : await runBench(await nodeGpu(), suites, () => Promise.resolve(nodeFolder(folder)), tell, say);
  const whole = `${JSON.stringify(report, undefined, 2)}\n`;
  if (json !== undefined) await writeFileWhole(path.resolve(json), [new TextEncoder().encode(whole)]);
  process.stdout.write(table(report));
  return 0;
}

function suiteOf(name: string): Suite {
  const found = SUITES.find((suite) => suite === name);
  if (found) return found;
  throw new InputError('command line', name, 'there is no such suite', nearestFirst(name, [...SUITES]).join(', '));
}

const digits = (value: number): string => (value >= 100 ? value.toFixed(0) : value.toPrecision(3));

function line({ suite, name, ...figures }: BenchResult): string {
  const parts = Object.entries(figures).map(([unit, value]) => `${unit.replaceAll('_', ' ')} ${digits(value)}`);
  return `${suite.padEnd(10)} ${name}: ${parts.join(', ')}`;
}

function table({ adapter, peak_gflops, stream_gbps, unrolled, summary }: BenchReport): string {
  const lines = [
    `${adapter.name}: multiply-add peak ${digits(peak_gflops)} GFLOP/s, reading ${digits(stream_gbps)} GB/s`,
    `  (loops unrolled: ${digits(unrolled.peak_gflops)} GFLOP/s, ${digits(unrolled.stream_gbps)} GB/s)`,
    ...Object.entries(summary).map(([name, value]) => `${name.padEnd(32)} ${digits(value as number)}`),
  ];
  return `${lines.join('\n')}\n`;
}
