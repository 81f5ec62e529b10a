/**
 * A run whose teacher is an ONNX file, against the same run with the teacher in the engine: the file is what Stillroom
 * itself exports of that teacher, so logits agree as an export's do (1e-3 of the largest), and losses to four digits, in 16 bits 3e-2.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { nodeFolder } from '../cli/node-files.ts';
import { exportModel } from '../export/export-model.ts';
import { MemorySink, ort } from '../export/export.testing.ts';
import { openCache, type LogitCache } from '../formats/logit-cache.ts';
import { openModel } from '../models/model.ts';
import type { RecipeInput } from '../recipe/schema.ts';
import type { LocalFiles } from './host.ts';
import type { JobEvent, MetricsLine } from './protocol.ts';
import { fewRows, memoryHost, testRun, type MemoryHost } from './testing.ts';

const few = fewRows(8);
const sink = new MemorySink();
const local: LocalFiles = {
  ...few,
  folder: (value) =>
    value === './exported'
      ? { name: value, open: async (path) => (sink.files.has(path) ? sink.open(path) : undefined) }
      : few.folder(value),
};

const recipe = (teacher: RecipeInput['teacher'], distill: RecipeInput['distill'] = {}): RecipeInput => ({
  name: 'tiny',
  seed: 3,
  student: { model: './arithmetic', compress: { layers: [0, 3] } },
  teacher,
  data: { source: './few.jsonl', eval_fraction: 0.25, max_length: 48, assistant_only_loss: true },
  distill: { objective: 'forward_kl', temperature: 2, alpha: 0.9, k: 8, ...distill },
  lora: { r: 2, lora_alpha: 4, target_modules: ['q_proj', 'v_proj'] },
  training: {
    per_device_train_batch_size: 2,
    per_device_eval_batch_size: 2,
    max_steps: 2,
    learning_rate: 0.01,
    logging_steps: 1,
  },
  export: { onnx: [], adapter: true },
});

let host: MemoryHost;
let engine: { cache: LogitCache; lines: MetricsLine[] };
const last = (events: readonly JobEvent[]): JobEvent => events.at(-1)!;

async function taughtBy(teacher: RecipeInput['teacher'], distill?: RecipeInput['distill']): Promise<typeof engine> {
  const run = await testRun(host, recipe(teacher, distill), local);
  const done = last(await run.sit());
  if (done.kind !== 'done') throw new Error(JSON.stringify(done));
  expect(done.report.teacher.kind).toBe(teacher!.kind);
  const lines = (await run.lines()).flatMap((event) => (event.kind === 'metrics' ? [event.line] : []));
  return { cache: (await openCache(host.shelf.keep(run.id, 'cache')))!, lines };
}

beforeAll(async () => {
  host = await memoryHost();
  await exportModel({
    model: await openModel(nodeFolder('public/bundled/arithmetic')),
    dtypes: ['fp32', 'fp16'],
    card: { title: 'teacher', base_model: 'arithmetic', figures: [] } as never,
    out: sink,
    ort,
    reference: [],
  });
  engine = await taughtBy({ kind: 'engine', model: './arithmetic' });
}, 300_000);
afterAll(() => host?.devices.forEach((device) => device.destroy()));

describe('a teacher as an ONNX file', { timeout: 600_000 }, () => {
  it('teaches what the engine teaches, at any temperature', async () => {
    const onnx = await taughtBy({ kind: 'onnx', model: './exported', dtype: 'fp32' });
    expect(onnx.cache.header).toMatchObject({ k: 8, temperatures: [1, 2], vocab_size: engine.cache.header.vocab_size });
    for (let row = 0; row < engine.cache.rows; row++) {
      expect((await onnx.cache.read(row)).ids).toEqual((await engine.cache.read(row)).ids);
    }
    expect(await difference(onnx.cache, engine.cache, ['logits', 'log_z'])).toBeLessThan(1e-3);
    engine.lines.forEach(({ loss, kl }, i) => {
      if (loss !== undefined) expect(onnx.lines[i]!.loss! / loss).toBeCloseTo(1, 4);
      if (kl !== undefined) expect(onnx.lines[i]!.kl! / kl).toBeCloseTo(1, 3);
    });
  });

  it('draws what the engine draws', async () => {
    const sampling = { tail: 'sampling', k: 16 } as const;
    const onnx = await taughtBy({ kind: 'onnx', model: './exported', dtype: 'fp32' }, sampling);
    const own = await taughtBy({ kind: 'engine', model: './arithmetic' }, sampling);
    expect(onnx.cache.header).toMatchObject({ entries: 'sampling', k: 16, temperatures: [1, 2] });
    let [same, all] = [0, 0];
    for (let row = 0; row < own.cache.rows; row++) {
      const [theirs, ours] = [await onnx.cache.read(row), await own.cache.read(row)];
      ours.ids.forEach((id, i) => (same += Number(theirs.ids[i] === id)));
      all += ours.ids.length;
    }
    // A point of the distribution within 1e-5 of where a token ends may fall on its neighbour.
    expect(same / all).toBeGreaterThan(0.999);
    own.lines.forEach(({ loss }, i) => {
      if (loss !== undefined) expect(onnx.lines[i]!.loss! / loss).toBeCloseTo(1, 2);
    });
  });

  it('in half the bytes teaches nearly the same', async () => {
    const { cache } = await taughtBy({ kind: 'onnx', model: './exported', dtype: 'fp16' });
    // Words that are nearly as likely may change places; the largest logits and the sums may not move further.
    expect(await difference(cache, engine.cache, ['logits', 'log_z'])).toBeLessThan(3e-2);
  });

  it.each([
    ['q4', './exported: onnx/model_q4.onnx: is missing: a folder as transformers.js takes it, with one of onnx/{'],
    ['fp32', './exported/onnx/model.onnx: can’t be opened by ONNX Runtime ('],
  ] as const)('that is not there, or broken (%s), is bad input', async (dtype, message) => {
    const whole = sink.files.get('onnx/model.onnx')!;
    if (dtype === 'fp32') sink.files.set('onnx/model.onnx', onlyUnknownOperators(whole));
    try {
      const run = await testRun(host, recipe({ kind: 'onnx', model: './exported', dtype }), local);
      const ended = last(await run.sit());
      if (ended.kind !== 'error') throw new Error(ended.kind);
      expect(ended.input).toBe(true);
      expect(ended.message).toContain(message);
    } finally {
      sink.files.set('onnx/model.onnx', whole);
    }
  });
});

/** Largest difference over the largest value. */
async function difference(a: LogitCache, b: LogitCache, names: readonly ('logits' | 'log_z')[]): Promise<number> {
  let [worst, largest] = [0, 0];
  for (let row = 0; row < b.rows; row++) {
    const [theirs, ours] = [await a.read(row), await b.read(row)];
    for (const name of names) {
      theirs[name].forEach((value, i) => (worst = Math.max(worst, Math.abs(value - ours[name][i]!))));
      largest = Math.max(largest, ...ours[name].map(Math.abs));
    }
  }
  return worst / largest;
}

/** The same file with the name of an operator that nobody knows. */
function onlyUnknownOperators(file: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
  const copy = Uint8Array.from(file);
  const name = new TextEncoder().encode('MatMul');
  for (let at = 0; at + name.length <= copy.length; at++) {
    if (name.every((byte, i) => copy[at + i] === byte)) copy[at] = 'X'.charCodeAt(0);
  }
  return copy;
}
