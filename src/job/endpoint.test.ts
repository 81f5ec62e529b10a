/**
 * A run whose teacher is behind a server, against the same run with the teacher in the engine. The server's logits are the
 * engine's own whole ones, its log p are taken in float64; so ids are the same, log p within 2e-5 (logits are up to 20, of
 * seven digits), and losses within 1e-4 of one.
 */
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { nodeFolder } from '../cli/node-files.ts';
import { testDevice } from '../engine/testing.ts';
import { openCache, type LogitCache } from '../formats/logit-cache.ts';
import { sequenceLogits } from '../models/logits.ts';
import { openModel } from '../models/model.ts';
import { loadParameters } from '../models/on-device.ts';
import { loadTokenizer } from '../models/tokenizer.ts';
import type { RecipeInput } from '../recipe/schema.ts';
import { send, testServer, type Mind, type Speaks, type TestServer } from '../teacher/endpoint/server.testing.ts';
import type { JobEvent, MetricsLine } from './protocol.ts';
import { fewRows, memoryHost, testRun, type MemoryHost, type TestRun } from './testing.ts';

const local = fewRows(12);

const recipe = (teacher: RecipeInput['teacher']): RecipeInput => ({
  name: 'tiny',
  seed: 3,
  student: { model: './arithmetic', compress: { layers: [0, 3] } },
  teacher,
  data: { source: './few.jsonl', eval_fraction: 0.33, max_length: 48, assistant_only_loss: true },
  distill: { objective: 'forward_kl', temperature: 1, alpha: 0.9, k: 8 },
  lora: { r: 2, lora_alpha: 4, target_modules: ['q_proj', 'v_proj'] },
  training: {
    per_device_train_batch_size: 2,
    per_device_eval_batch_size: 2,
    max_steps: 4,
    learning_rate: 0.01,
    logging_steps: 1,
    eval_strategy: 'steps',
    eval_steps: 4,
  },
  export: { onnx: [], adapter: true },
});

let host: MemoryHost;
let mind: Mind;
let server: TestServer;
let byEngine: { cache: LogitCache; lines: MetricsLine[] };

const cacheOf = async (run: TestRun): Promise<LogitCache> => (await openCache(host.shelf.keep(run.id, 'cache')))!;
const linesOf = async (run: TestRun): Promise<MetricsLine[]> =>
  (await run.lines()).flatMap((event) => (event.kind === 'metrics' ? [event.line] : []));
const last = (events: readonly JobEvent[]): JobEvent => events.at(-1)!;

async function taughtBy(speaks: Speaks): Promise<TestRun> {
  server = await testServer(speaks, mind);
  return testRun(host, recipe({ kind: 'endpoint', url: server.url, model: 'teacher' }), local);
}

async function expectSame(run: TestRun): Promise<void> {
  const cache = await cacheOf(run);
  expect(cache.header.temperatures).toEqual([1]);
  expect([cache.rows, cache.positions]).toEqual([byEngine.cache.rows, byEngine.cache.positions]);
  expect(cache.massKept(1)).toBeCloseTo(byEngine.cache.massKept(1), 5);
  let worst = 0;
  for (let row = 0; row < cache.rows; row++) {
    const [theirs, ours] = [await cache.read(row), await byEngine.cache.read(row)];
    expect(theirs.positions).toEqual(ours.positions);
    expect(theirs.ids).toEqual(ours.ids);
    theirs.logits.forEach((logprob, i) => {
      worst = Math.max(worst, Math.abs(logprob - (ours.logits[i]! - ours.log_z[Math.floor(i / 8)]!)));
    });
  }
  expect(worst).toBeLessThan(2e-5);
  const lines = await linesOf(run);
  expect(lines.length).toBe(byEngine.lines.length);
  lines.forEach((line, i) => {
    const engine = byEngine.lines[i]!;
    for (const name of ['loss', 'kl', 'eval_loss', 'eval_kl'] as const) {
      if (engine[name] !== undefined) expect(Math.abs(line[name]! / engine[name] - 1)).toBeLessThan(1e-4);
    }
  });
}

beforeAll(async () => {
  host = await memoryHost();
  const folder = nodeFolder('public/bundled/arithmetic');
  const [device, model, tokenizer] = [await testDevice(), await openModel(folder), await loadTokenizer(folder)];
  const tensors = await loadParameters(device, model);
  const known: { ids: readonly number[]; logits: Float32Array }[] = [];
  const { vocab_size } = model.options;
  mind = {
    model: 'teacher',
    tokenizer,
    vocab_size,
    async logits(ids) {
      // The beginning of a text that was thought of: what follows changes nothing.
      const longer = known.find((one) => ids.every((id, i) => one.ids[i] === id));
      if (longer) return longer.logits.subarray(0, ids.length * vocab_size);
      const [thought] = await sequenceLogits(device, model.options, tensors, [ids]);
      known.push({ ids, logits: thought!.logits });
      return thought!.logits;
    },
  };
  const run = await testRun(host, recipe({ kind: 'engine', model: './arithmetic' }), local);
  expect(last(await run.sit()).kind).toBe('done');
  byEngine = { cache: await cacheOf(run), lines: await linesOf(run) };
  expect(byEngine.lines.map(({ step }) => step)).toEqual([0, 1, 2, 3, 4, 4]);
}, 600_000);

afterEach(() => server.close());
afterAll(() => host?.devices.forEach((device) => device.destroy()));

describe('a teacher behind a server', { timeout: 600_000 }, () => {
  it.each(['vLLM', 'llama.cpp'] as const)('%s teaches what the engine teaches', async (speaks) => {
    const run = await taughtBy(speaks);
    const done = last(await run.sit());
    if (done.kind !== 'done') throw new Error(JSON.stringify(done));
    expect(done.report.teacher).toMatchObject({ kind: 'endpoint' });
    await expectSame(run);
  });

  it('that stops in the middle fails the run with a sentence, and nothing of what it said is asked again', async () => {
    const run = await taughtBy('vLLM');
    let asked = 0;
    server.instead = (path, response, body) => {
      if (path !== '/v1/completions' || (body['prompt'] as number[]).length < 3 || ++asked <= 6) return false;
      send(response, 400, { error: { message: 'out of order' } });
      return true;
    };
    expect(last(await run.sit())).toEqual({
      kind: 'error',
      input: false,
      message: `${server.url}: answered 400 Bad Request (out of order): what this server takes`,
    });
    const kept = (await cacheOf(run)).rows;
    expect(kept).toBeGreaterThanOrEqual(4); // six requests answered, one of them for trying, up to three in their turn
    server.instead = () => false;
    server.heard.length = 0;
    expect(last(await run.sit()).kind).toBe('done');
    const rows = server.heard.filter(
      ({ path, body }) => path === '/v1/completions' && (body['prompt'] as number[]).length > 2,
    );
    expect(rows.length).toBe(12 - kept);
    await expectSame(run);
  });

  it('keeps its key out of everything', async () => {
    const run = await taughtBy('vLLM');
    host.reach.useKey(server.url, 'sk-very-secret');
    server.instead = (path, response, _body) => {
      if (path !== '/tokenize') return false;
      send(response, 401, { error: { message: 'no sk-very-secret here' } });
      return true;
    };
    const events = await run.sit();
    expect(last(events)).toMatchObject({ kind: 'error', input: true });
    expect(server.heard.every(({ headers }) => headers.authorization === 'Bearer sk-very-secret')).toBe(true);
    host.reach.useKey(server.url, '');
    expect(JSON.stringify([events, await run.facts(), await run.lines()])).not.toContain('very-secret');
  });
});
