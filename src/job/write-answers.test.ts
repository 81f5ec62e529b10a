/** A run whose teacher writes what the student learns: what is learnt, what is not and why, and that nothing is asked twice. */
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { nodeFolder } from '../cli/node-files.ts';
import { MemorySource, readText } from '../formats/byte-source.ts';
import { openCache } from '../formats/logit-cache.ts';
import { loadTokenizer, type Tokenizer } from '../models/tokenizer.ts';
import type { Distill, RecipeInput } from '../recipe/schema.ts';
import { send, testServer, type Json, type TestServer } from '../teacher/endpoint/server.testing.ts';
import type { LocalFiles } from './host.ts';
import type { JobEvent, Report } from './protocol.ts';
import { diskFiles, memoryHost, testRun, type MemoryHost, type TestRun } from './testing.ts';

/** a + 1 for a from 10, each with its own answer; the third is asked again as the last. */
const asked = [10, 11, 12, 13, 14, 15, 16, 17, 12];
const rows = asked.map((a) => ({
  messages: [
    { role: 'user', content: `${a} + 1 = ?` },
    { role: 'assistant', content: `<think>by heart</think> ${a + 1}` },
  ],
}));
const local: LocalFiles = {
  ...diskFiles('public/bundled'),
  file: async (value) =>
    value === './rows.jsonl'
      ? new MemorySource(value, new TextEncoder().encode(rows.map((row) => JSON.stringify(row)).join('\n')))
      : undefined,
};

/** What the server says to a question, the n-th time that it is asked. */
function says(body: Json): { message: Json; finish_reason: string } {
  const question = (body['messages'] as { content: string }[]).at(-1)!.content;
  const a = Number(question.split(' ')[0]);
  const second = body['seed'] !== 3;
  const right = { content: `${a + 1}`, reasoning_content: second ? 'so' : `${a} + 1` };
  switch (a) {
    case 11:
      return { message: { content: '7' }, finish_reason: 'stop' };
    case 13:
      return { message: { content: '14' }, finish_reason: second ? 'stop' : 'length' };
    case 14:
      return { message: { content: second ? '15' : '' }, finish_reason: 'stop' };
    case 15:
      return { message: { content: '16' }, finish_reason: 'stop' }; // twice the same
    default:
      return { message: right, finish_reason: 'stop' };
  }
}

const recipe = (url: string, answers: Partial<NonNullable<Distill['answers']>>): RecipeInput => ({
  name: 'tiny',
  seed: 3,
  student: { model: './arithmetic', compress: { layers: [0, 3] } },
  teacher: { kind: 'endpoint', url, model: 'teacher', num_concurrent: 3 },
  data: { source: './rows.jsonl', eval_fraction: 0.25, shuffle: false, max_length: 64, assistant_only_loss: true },
  distill: { objective: 'none', answers: { max_new_tokens: 32, ...answers } },
  lora: { r: 2, lora_alpha: 4, target_modules: ['q_proj'] },
  training: { per_device_train_batch_size: 2, per_device_eval_batch_size: 2, max_steps: 1 },
  export: { onnx: [], adapter: true },
});

let host: MemoryHost;
let tokenizer: Tokenizer;
let server: TestServer;

const last = (events: readonly JobEvent[]): JobEvent => events.at(-1)!;
const report = (events: readonly JobEvent[]): Report => {
  const done = last(events);
  if (done.kind !== 'done') throw new Error(JSON.stringify(done));
  return done.report;
};
async function written(run: TestRun): Promise<string[]> {
  const lines = (await readText((await run.out.open('answers.jsonl'))!)).trim().split('\n');
  return lines.map((line) => {
    const [question, answer] = (JSON.parse(line) as (typeof rows)[0]).messages;
    return `${question!.content} ${answer!.content}`;
  });
}
const chats = () => server.heard.filter(({ path }) => path === '/v1/chat/completions');

beforeAll(async () => {
  host = await memoryHost();
  tokenizer = await loadTokenizer(nodeFolder('public/bundled/arithmetic'));
});
afterEach(() => server.close());
afterAll(() => host?.devices.forEach((device) => device.destroy()));

async function start(answers: Partial<NonNullable<Distill['answers']>>, distill: object = {}): Promise<TestRun> {
  const { vocab_size } = tokenizer;
  const logits = async (ids: readonly number[]): Promise<Float32Array> => new Float32Array(ids.length * vocab_size);
  const mind = { model: 'teacher', tokenizer, vocab_size, logits, chat: says };
  server = await testServer('objective' in distill ? 'vLLM' : 'Ollama', mind);
  const asked = recipe(server.url, answers);
  return testRun(host, { ...asked, distill: { ...asked.distill, ...distill } }, local);
}

describe('a teacher that writes', { timeout: 300_000 }, () => {
  it('is learnt from where it is right, whole and new; everything else is counted', async () => {
    const run = await start({ num_return_sequences: 2, verify: 'exact_match' });
    const { data, teacher } = report(await run.sit());
    expect(await written(run)).toEqual([
      '10 + 1 = ? <think>\n10 + 1\n</think>\n\n11',
      '10 + 1 = ? <think>\nso\n</think>\n\n11',
      '12 + 1 = ? <think>\n12 + 1\n</think>\n\n13',
      '12 + 1 = ? <think>\nso\n</think>\n\n13',
      '13 + 1 = ? 14',
      '14 + 1 = ? 15',
      '15 + 1 = ? 16',
      '16 + 1 = ? <think>\n16 + 1\n</think>\n\n17',
      '16 + 1 = ? <think>\nso\n</think>\n\n17',
      '17 + 1 = ? <think>\n17 + 1\n</think>\n\n18',
      '17 + 1 = ? <think>\nso\n</think>\n\n18',
    ]);
    expect(data).toMatchObject({ read: 18, kept: 11 });
    // Six of the nine rows train; those after them, 16 and 17, evaluate whatever became of the rows before.
    expect([data.train_rows, data.eval_rows]).toEqual([7, 4]);
    expect(data.dropped).toEqual([
      { reason: 'the teacher’s final answer is not the row’s', rows: 2 },
      { reason: 'the teacher’s answer was cut off at max_new_tokens', rows: 1 },
      { reason: 'the teacher’s answer is empty', rows: 1 },
      { reason: 'the teacher’s answer is the same as another of the row', rows: 1 },
      { reason: 'the same question as an earlier row', rows: 2 },
    ]);
    expect(teacher).toEqual({ kind: 'endpoint', answers: { written: 16, kept: 11 } });
    expect(new Set(chats().map(({ body }) => body['seed']))).toEqual(new Set([3, 4]));
  });

  it('whose thoughts are not wanted is learnt from without them, wrong answers and all', async () => {
    const run = await start({ reasoning: false });
    report(await run.sit());
    expect(await written(run)).toEqual([
      '10 + 1 = ? 11',
      '11 + 1 = ? 7',
      '12 + 1 = ? 13',
      '15 + 1 = ? 16',
      '16 + 1 = ? 17',
      '17 + 1 = ? 18',
    ]);
  });

  it('that breaks off, or is paused, is asked only for what is missing', async () => {
    const run = await start({});
    let answered = 0;
    server.instead = (path, response) => {
      if (path !== '/v1/chat/completions' || ++answered <= 4) return false;
      send(response, 402, { error: { message: 'no credit left' } });
      return true;
    };
    expect(last(await run.sit())).toEqual({
      kind: 'error',
      input: false,
      message: `${server.url}: answered 402 Payment Required (no credit left): what this server takes`,
    });
    server.instead = () => false;
    server.heard.length = 0;
    const paused = await run.sit((event, active) => {
      if (event.kind === 'progress' && event.unit === 'answers' && event.done > 5) active.asked = 'paused';
    });
    expect(last(paused)).toEqual({ kind: 'paused', why: 'asked' });
    report(await run.sit());
    // Those that were under way when it was paused are asked for again: at most as many as go at a time.
    expect(chats().length).toBeGreaterThanOrEqual(4);
    expect(chats().length).toBeLessThanOrEqual(4 + 3);
    expect(await written(run)).toHaveLength(6);
  });

  it('says of its own answers how probable it finds them', async () => {
    const run = await start({}, { objective: 'forward_kl', temperature: 1, k: 4 });
    const { teacher, data } = report(await run.sit());
    expect(teacher).toMatchObject({ kind: 'endpoint', answers: { written: 8, kept: 6 } });
    const cache = (await openCache(host.shelf.keep(run.id, 'cache')))!;
    expect(cache.rows).toBe(data.kept);
    // It finds all words alike.
    expect(teacher.mass_kept!['1']).toBeCloseTo(4 / tokenizer.vocab_size, 6);
    const thoughts = server.heard.filter(({ path }) => path === '/v1/completions').map(({ body }) => body['prompt']);
    expect(tokenizer.decode(thoughts.at(-1) as number[])).toContain('18');
  });

  it('with nobody there is bad input at first, and no longer when there is something to lose', async () => {
    const run = await start({});
    const address = server.url;
    server.instead = (_path, response) => (send(response, 401, { error: { message: 'no' } }), true);
    expect(last(await run.sit())).toMatchObject({ kind: 'error', input: true });
    server.instead = (path, response) => {
      if (path !== '/v1/chat/completions' || chats().length <= 1) return false;
      send(response, 401, { error: { message: 'no' } });
      return true;
    };
    expect(last(await run.sit())).toMatchObject({ kind: 'error', input: false });
    server.instead = (_path, response) => (send(response, 401, { error: { message: 'no' } }), true);
    expect(last(await run.sit())).toMatchObject({
      kind: 'error',
      input: false,
      message: expect.stringContaining(address),
    });
  });
});
