/**
 * Runs that learn from tokens drawn out of the teacher's whole distribution: the cache that they make and go on with, what
 * they learn from it, and which caches they refuse.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { MemorySource, readAll } from '../formats/byte-source.ts';
import type { CacheRow, LogitCache } from '../formats/logit-cache.ts';
import { openCacheFile } from '../formats/logit-cache-file.ts';
import type { RecipeInput } from '../recipe/schema.ts';
import type { LocalFiles } from './host.ts';
import type { JobEvent, MetricsLine } from './protocol.ts';
import { fewRows, memoryHost, testRun, type MemoryHost, type TestRun } from './testing.ts';

const STEPS = 16;
const DRAWS = 24;
const VOCABULARY = 64;
/** 24 rows to train on, eight to evaluate. */
const local = fewRows(32);

const recipe: RecipeInput = {
  name: 'sampled',
  seed: 3,
  student: { model: './arithmetic', compress: { layers: [0, 3] } },
  teacher: { kind: 'engine', model: './arithmetic' },
  data: { source: './few.jsonl', eval_fraction: 0.25, max_length: 48, assistant_only_loss: true },
  distill: { objective: 'forward_kl', temperature: 2, alpha: 0.9, k: DRAWS, tail: 'sampling' },
  lora: { r: 8, lora_alpha: 16, target_modules: 'all-linear' },
  training: {
    per_device_train_batch_size: 8,
    per_device_eval_batch_size: 4,
    max_steps: STEPS,
    learning_rate: 0.003,
    logging_steps: 8,
    eval_strategy: 'no',
    save_steps: 8,
  },
  export: { onnx: [], adapter: true, logit_cache: true },
};

const bytesOf = async (run: TestRun, path: string): Promise<Uint8Array<ArrayBuffer>> =>
  readAll((await run.out.open(path))!);
const cacheOf = async (run: TestRun): Promise<LogitCache> => openCacheFile((await run.out.open('teacher.cache'))!);
const adapterOf = async (run: TestRun): Promise<string> =>
  Buffer.from(await bytesOf(run, 'adapter/adapter_model.safetensors')).toString('base64');

async function rowsOf(cache: LogitCache): Promise<CacheRow[]> {
  return Promise.all(Array.from({ length: cache.rows }, (_, row) => cache.read(row)));
}

const metricsOf = (events: readonly JobEvent[]): MetricsLine[] =>
  events.flatMap((event) => (event.kind === 'metrics' ? [event.line] : []));

function doneOf(events: readonly JobEvent[]): Extract<JobEvent, { kind: 'done' }> {
  const last = events.at(-1)!;
  if (last.kind !== 'done') throw new Error(JSON.stringify(last));
  return last;
}

describe('a run with a cache made by sampling', { timeout: 600_000 }, () => {
  let host: MemoryHost;
  let whole: TestRun;
  let lines: MetricsLine[];

  beforeAll(async () => {
    host = await memoryHost();
    whole = await testRun(host, recipe, local);
    const events = await whole.sit();
    expect(doneOf(events).report.teacher).toMatchObject({ kind: 'engine', draws: DRAWS });
    expect(doneOf(events).report.teacher.mass_kept).toBeUndefined();
    lines = metricsOf(events);
  }, 600_000);
  afterAll(() => host?.devices.forEach((device) => device.destroy()));

  it('draws at every position, often what is likely, and says so', async () => {
    const cache = await cacheOf(whole);
    expect(cache.header).toMatchObject({ entries: 'sampling', k: DRAWS, temperatures: [1, 2] });
    let likeliest = 0;
    for (const { positions, ids, logits, log_z } of await rowsOf(cache)) {
      for (let p = 0; p < positions.length; p++) {
        const at = [...ids.subarray(p * DRAWS, (p + 1) * DRAWS).keys()].map((i) => p * DRAWS + i);
        const best = at.reduce((a, b) => (logits[b]! > logits[a]! ? b : a));
        const often = at.filter((i) => ids[i] === ids[best]).length;
        const share = (Math.exp(logits[best]! - log_z[2 * p]!) + Math.exp(logits[best]! / 2 - log_z[2 * p + 1]!)) / 2;
        // one in each N-th of the whole: a stretch of it has at most one more or less at either end
        expect(Math.abs(often - DRAWS * share)).toBeLessThan(2 + 1e-4);
        likeliest += often / DRAWS;
      }
    }
    expect(likeliest / cache.positions).toBeGreaterThan(0.3);
    expect(new TextDecoder().decode(await bytesOf(whole, 'report.html'))).toContain(
      `${DRAWS} tokens drawn at each position`,
    );
  });

  it('comes nearer to its teacher, measured by all that the teacher says of rows that none has seen', async () => {
    const adapter = { name: './adapter', open: (path: string) => whole.out.open(`adapter/${path}`) };
    const exactly = async (student: RecipeInput['student']): Promise<number> => {
      const known: RecipeInput = {
        ...recipe,
        student,
        distill: { ...recipe.distill, k: VOCABULARY, tail: 'ignore' },
        training: { ...recipe.training, max_steps: 1 },
        export: { onnx: [], adapter: true },
      };
      const files = { ...local, folder: (value: string) => (value === './adapter' ? adapter : local.folder(value)) };
      const events = await (await testRun(host, known, files)).sit();
      doneOf(events);
      return metricsOf(events).find((line) => line.step === 0)!.eval_kl!;
    };
    const [before, after] = [await exactly(recipe.student), await exactly({ ...recipe.student, adapter: './adapter' })];
    expect(after).toBeLessThan(0.75 * before);
    // What the run itself says, by its draws alone: of some 200 positions it is right to a tenth.
    const said = lines.flatMap((line) => line.eval_kl ?? []);
    expect(Math.abs(said[0]! / before - 1)).toBeLessThan(0.1);
    expect(Math.abs(said.at(-1)! / after - 1)).toBeLessThan(0.1);
  });

  it('ends in the same bits when it is interrupted, while drawing and while training', async () => {
    // Every look at the clock is six seconds later, so that each batch of rows is written when it has come.
    let seconds = 0;
    const slow = { ...host, now: () => new Date(1e12 + 6000 * seconds++) };
    const run = await testRun(slow, recipe, local);
    const paused = new Set<string>();
    for (;;) {
      const events = await run.sit((event, active) => {
        const at =
          event.kind === 'progress' && event.step === 'teacher' && event.unit === 'rows' && event.done < event.of
            ? `teacher ${event.done}`
            : event.kind === 'metrics'
              ? `line ${event.line.step}`
              : '';
        if (at === '' || paused.has(at)) return;
        paused.add(at);
        active.asked = 'paused';
      });
      if (events.at(-1)!.kind === 'done') break;
      expect(events.at(-1)).toEqual({ kind: 'paused', why: 'asked' });
    }
    expect([...paused]).toEqual(expect.arrayContaining(['teacher 4', 'teacher 16', 'line 0', 'line 8']));
    expect(await rowsOf(await cacheOf(run))).toEqual(await rowsOf(await cacheOf(whole)));
    expect(await adapterOf(run)).toBe(await adapterOf(whole));
  });

  it('learns the same from the file of its cache, and takes neither kind of cache for the other', async () => {
    const served = (file: Uint8Array<ArrayBuffer>): LocalFiles => ({
      ...local,
      file: async (value) => (value === './teacher.cache' ? new MemorySource(value, file) : local.file(value)),
    });
    const from = (tail: 'sampling' | 'bucket'): RecipeInput => ({
      ...recipe,
      teacher: { kind: 'cache', source: './teacher.cache' },
      // all draws count, whatever k says
      distill: { ...recipe.distill, k: 4, tail },
    });
    const drawn = await bytesOf(whole, 'teacher.cache');
    const again = await testRun(host, from('sampling'), served(drawn));
    doneOf(await again.sit());
    expect(await adapterOf(again)).toBe(await adapterOf(whole));

    const maker = await testRun(
      host,
      {
        ...recipe,
        distill: { ...recipe.distill, tail: 'bucket' },
        training: { ...recipe.training, max_steps: 1 },
      },
      local,
    );
    doneOf(await maker.sit());
    const largest = await bytesOf(maker, 'teacher.cache');
    for (const [tail, file, words] of [
      ['sampling', largest, `distill.tail: is "sampling", and the teacher's cache holds its largest logits`],
      ['bucket', drawn, `distill.tail: is "bucket", and the teacher's cache was made by sampling: "sampling"`],
    ] as const) {
      const refused = await testRun(host, from(tail), served(file));
      expect((await refused.sit()).at(-1)).toMatchObject({
        kind: 'error',
        input: true,
        message: expect.stringContaining(words),
      });
    }
  });
});
