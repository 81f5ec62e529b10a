/**
 * Runs whose student keeps a part of the vocabulary: rows and cache one to one with the teacher's, distilled, resumed,
 * exported and opened again.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { MemorySource, readAll, type FileSource } from '../formats/byte-source.ts';
import type { LogitCache } from '../formats/logit-cache.ts';
import { openCacheFile } from '../formats/logit-cache-file.ts';
import { summarizeOnnx } from '../formats/onnx-summary.ts';
import { openSafetensors } from '../formats/safetensors.ts';
import { tinyEncoderFolder } from '../models/architectures/tiny-encoder.testing.ts';
import { tinyDecoderFolder } from '../models/tiny-decoder.testing.ts';
import { loadTokenizer } from '../models/tokenizer.ts';
import { parseRecipe } from '../recipe/parse.ts';
import type { RecipeInput } from '../recipe/schema.ts';
import { estimateOf } from './estimate.ts';
import type { LocalFiles } from './host.ts';
import type { JobEvent, Report } from './protocol.ts';
import { Sources } from './sources.ts';
import { startLossOf } from './start-loss.ts';
import { rowsOf } from './steps/rows.ts';
import { teacherBatch } from './steps/teacher-batch.ts';
import { Talk } from './talk.ts';
import { memoryHost, testRun, type MemoryHost, type TestRun } from './testing.ts';

const LEARNED = [
  'the quick brown fox jumps over the lazy dog and the cat',
  'what does the fox say when the dog is near the house',
  'a question of colours, numbers and other matters',
];
const rows = Array.from({ length: 12 }, (_, i) => {
  const animal = ['fox', 'dog', 'cat'][i % 3]!;
  return JSON.stringify({ prompt: `what does the ${animal} say? `, completion: `the ${animal} jumps over ${i}` });
});
const texts = Array.from({ length: 18 }, (_, i) =>
  JSON.stringify({ text: Array.from({ length: 6 }, (_, j) => `w${(i + 2 * j) % 9}`).join(' ') }),
);

const models = new Map<string, FileSource>([
  ['./teacher', tinyDecoderFolder('./teacher', LEARNED, { seed: 100, padding: 5 })],
  ['./student', tinyDecoderFolder('./student', LEARNED, { seed: 1 })],
  ['./bert', await tinyEncoderFolder('bert')],
]);
const brought = new Map<string, Uint8Array<ArrayBuffer>>([
  ['./rows.jsonl', new TextEncoder().encode(rows.join('\n'))],
  ['./texts.jsonl', new TextEncoder().encode(texts.join('\n'))],
]);
const local: LocalFiles = {
  has: (value) => value.startsWith('./'),
  folder: (value) => models.get(value)!,
  file: async (value) => (brought.has(value) ? new MemorySource(value, brought.get(value)!) : undefined),
};

const recipe = (change: Partial<RecipeInput> = {}): RecipeInput => ({
  name: 'trimmed',
  seed: 3,
  student: { model: './student', compress: { vocabulary: 'data' } },
  teacher: { kind: 'engine', model: './teacher' },
  data: { source: './rows.jsonl', eval_fraction: 0.25 },
  distill: { objective: 'forward_kl', temperature: 2, alpha: 0.9, k: 24 },
  lora: null,
  training: {
    per_device_train_batch_size: 3,
    per_device_eval_batch_size: 3,
    max_steps: 4,
    learning_rate: 0.01,
    logging_steps: 2,
    save_steps: 2,
  },
  export: { onnx: [], safetensors: true },
  ...change,
});

const bytesOf = async (run: TestRun, path: string): Promise<Uint8Array<ArrayBuffer>> =>
  readAll((await run.out.open(path))!);
const textOf = async (run: TestRun, path: string): Promise<string> =>
  new TextDecoder().decode(await bytesOf(run, path));
const cacheOf = async (run: TestRun): Promise<LogitCache> => openCacheFile((await run.out.open('teacher.cache'))!);
const exported = (run: TestRun): FileSource => ({ name: 'out', open: (path) => run.out.open(`model/${path}`) });

function reportOf(events: readonly JobEvent[]): Report {
  const last = events.at(-1)!;
  if (last.kind !== 'done') throw new Error(JSON.stringify(last));
  return last.report;
}

describe('a run whose student keeps the tokens of its rows', { timeout: 600_000 }, () => {
  let host: MemoryHost;
  const context = (input: RecipeInput) => ({
    recipe: parseRecipe(input, 'recipe.json'),
    recipeFile: 'recipe.json',
    sources: new Sources(host, local, 'recipe.json'),
  });
  beforeAll(async () => {
    host = await memoryHost();
  });
  afterAll(() => host?.devices.forEach((device) => device.destroy()));

  it('learns from a teacher of all tokens, and every file of it is that of a smaller model', async () => {
    const input = recipe({
      training: { ...recipe().training, eval_strategy: 'steps', eval_steps: 4 },
      evaluate: { tasks: [{ task: 'exact_match', source: './rows.jsonl', limit: 2, max_new_tokens: 4 }] },
      export: {
        onnx: ['fp32', 'q8'],
        flavour: 'standard',
        external_data: true,
        safetensors: true,
        gguf: ['F32', 'Q8_0'],
      },
    });
    const run = await testRun(host, input, local);
    const events = await run.sit();
    const { train, data, export: out, evaluate } = reportOf(events);
    const { kept, of } = data.vocabulary!;
    const whole = await loadTokenizer(models.get('./student')!);
    expect(of).toBe(whole.vocab_size);
    expect(kept).toBeLessThan(of);
    expect(train.eval_loss_after).toBeLessThan(train.eval_loss_before!);

    const { width, parameters } = { width: 32, parameters: evaluate.student_parameters };
    const weights = await openSafetensors((await run.out.open('model/model.safetensors'))!);
    expect(weights.tensors.get('model.embed_tokens.weight')!.shape).toEqual([kept, width]);
    expect([...weights.tensors.values()].reduce((sum, { bytes }) => sum + bytes / 4, 0)).toBe(parameters);
    const file = (path: string) => out.files.find((one) => one.path === `model/${path}`)!;
    expect(file('onnx/model.onnx').max_logit_difference).toBeLessThan(1e-5);
    expect(file('onnx/model.onnx_data').bytes).toBeGreaterThan(file('onnx/model.onnx').bytes);
    const { eval_loss_before, eval_loss_after } = file('onnx/model.onnx');
    expect(Math.abs(eval_loss_after! - eval_loss_before!)).toBeLessThan(1e-5);
    expect(file('onnx/model_quantized.onnx').eval_loss_before).toBe(eval_loss_before);
    const { operators } = await summarizeOnnx((await run.out.open('model/onnx/model.onnx'))!);
    expect(Object.keys(operators).filter((name) => name.startsWith('com.microsoft'))).toEqual([]);
    expect(file('model-F32.gguf').max_weight_difference).toBe(0);
    // what was trained is in the file, and not the student as it began
    expect(file('model-F32.gguf').eval_loss_after).toBeCloseTo(eval_loss_before!, 5);
    const rounded = file('model-Q8_0.gguf').eval_loss_after!;
    expect(rounded).not.toBe(file('model-F32.gguf').eval_loss_after);
    expect(rounded).toBeCloseTo(eval_loss_before!, 1);

    const own = await loadTokenizer(exported(run), { vocab_size: kept });
    const said = 'the fox jumps over 7';
    expect(own.encode(said).map((id) => own.token(id))).toEqual(whole.encode(said).map((id) => whole.token(id)));
    expect(own.decode(own.encode('Straße 猫'))).toBe('Straße 猫');
    expect(JSON.parse(await textOf(run, 'model/config.json'))).toMatchObject({
      vocab_size: kept,
      eos_token_id: [own.eos_token_id],
    });
    expect(JSON.parse(await textOf(run, 'model/generation_config.json')).eos_token_id).toBe(own.eos_token_id);
    expect(await textOf(run, 'model/README.md')).toContain(`Of ${of} tokens its vocabulary keeps ${kept}`);
    expect(await textOf(run, 'report.html')).toContain(`keeps ${kept} of ${of} tokens`);

    const estimate = events.find((event) => event.kind === 'estimate')!;
    const before = await estimateOf(context(input), host);
    expect(before).toMatchObject({ vocabulary: { kept, of }, student_parameters: parameters });
    expect(estimate).toMatchObject({ estimate: { vocabulary: { kept, of }, student_parameters: parameters } });

    const inputs = host.shelf.folder(run.id, 'inputs');
    for (const name of ['student', 'teacher']) {
      const folder = models.get(`./${name}`)!;
      for (const path of await folder.list!()) {
        await inputs.write(`${name}/${path}`, [await readAll((await folder.open(path))!)]);
      }
    }
    const talk = new Talk(Promise.resolve(host));
    try {
      const choices = await talk.nextToken(await run.facts(), 'what does the fox say? the', 3);
      const sum = (who: 'teacher' | 'student') => choices.reduce((all, one) => all + (one[who] ?? 0), 0);
      expect(choices.length).toBe(3);
      expect(sum('student')).toBeGreaterThan(0);
      expect(sum('teacher')).toBeGreaterThan(0);
    } finally {
      await talk.close();
    }
  });

  it('takes the cache that a run without it wrote, and ends in the same bits as by its own', async () => {
    const base = recipe();
    const untrimmed = await testRun(
      host,
      { ...base, student: { model: './student' }, export: { onnx: [], logit_cache: true } },
      local,
    );
    reportOf(await untrimmed.sit());
    brought.set('./teacher.cache', await bytesOf(untrimmed, 'teacher.cache'));
    const from = async (teacher: RecipeInput['teacher']): Promise<TestRun> => {
      const run = await testRun(host, { ...base, teacher, export: { ...base.export, logit_cache: true } }, local);
      reportOf(await run.sit());
      return run;
    };
    const cached = await from({ kind: 'cache', source: './teacher.cache' });
    const own = await from(base.teacher);
    expect(await bytesOf(own, 'model/model.safetensors')).toEqual(await bytesOf(cached, 'model/model.safetensors'));
    // row by row: where a file's blocks end depends on the clock
    const [mine, theirs] = [await cacheOf(own), await cacheOf(untrimmed)];
    expect(mine.rows).toBe(rows.length);
    for (let row = 0; row < mine.rows; row++) expect(await mine.read(row)).toEqual(await theirs.read(row));
  });

  it('beside a cut by importance and an adapter with new tokens; paused, it ends in the same bits', async () => {
    const base = recipe();
    const input: RecipeInput = {
      ...base,
      teacher: { kind: 'none' },
      distill: {},
      student: {
        model: './student',
        compress: { vocabulary: 'data', init: 'importance', num_hidden_layers: 1, intermediate_size: 48 },
        add_tokens: ['<think>'],
      },
      lora: { r: 2, target_modules: ['q_proj', 'v_proj'] },
      export: { onnx: ['fp32'], adapter: true, safetensors: true },
    };
    const whole = await testRun(host, input, local);
    const { data } = reportOf(await whole.sit());
    const paused = await testRun(host, input, local);
    let sittings = 0;
    for (let done = false; !done; sittings++) {
      let asked = false;
      const events = await paused.sit((event, run) => {
        const ready = event.kind === 'step' && event.state === 'running' && event.step === 'train' && sittings === 0;
        if (!asked && (ready || (event.kind === 'checkpoint' && sittings === 1))) {
          asked = true;
          run.asked = 'paused';
        }
      });
      done = events.at(-1)!.kind === 'done';
    }
    expect(sittings).toBe(3);
    expect(await bytesOf(paused, 'model/model.safetensors')).toEqual(await bytesOf(whole, 'model/model.safetensors'));
    const config = JSON.parse(await textOf(whole, 'adapter/adapter_config.json'));
    const own = await loadTokenizer(exported(whole));
    expect(own.vocab_size).toBe(data.vocabulary!.kept);
    expect(config.trainable_token_indices).toEqual([own.idOf('<think>')]);
  });

  it('of encoders: masks with tokens that stay, and the teacher reads the same', async () => {
    const base = recipe();
    const input: RecipeInput = {
      ...base,
      student: { model: './bert', compress: { vocabulary: 'data', layers: [1] } },
      teacher: { kind: 'engine', model: './bert' },
      data: { source: './texts.jsonl', eval_fraction: 0.25, mlm_probability: 0.4 },
      distill: { ...base.distill, k: 16 },
      training: { ...base.training, eval_strategy: 'steps', eval_steps: 4 },
      export: { onnx: ['fp32'], safetensors: true },
    };
    const { data, own, vocabulary } = await rowsOf(context(input));
    // nine words and five special tokens
    expect(vocabulary!.kept).toEqual(Array.from({ length: 14 }, (_, id) => id));
    expect(data.prepared.train.map(({ input_ids }) => [...input_ids])).toEqual(
      own.prepared.train.map(({ input_ids }) => [...input_ids]),
    );
    const run = await testRun(host, input, local);
    const { train, export: out } = reportOf(await run.sit());
    expect(train.eval_loss_after).toBeLessThan(train.eval_loss_before!);
    expect(out.files.find(({ path }) => path === 'model/onnx/model.onnx')!.max_logit_difference).toBeLessThan(1e-5);
    const { tensors } = await openSafetensors((await run.out.open('model/model.safetensors'))!);
    expect(tensors.get('cls.predictions.bias')!.shape).toEqual([14]);
  });

  it('says so where the tokens would not do, and refuses a tokenizer of another kind before it reads a row', async () => {
    const { vocabulary } = await rowsOf(context(recipe()));
    const { kept, of } = vocabulary!;
    const whole = await loadTokenizer(models.get('./student')!);
    const gone = whole.idOf('fox') ?? whole.idOf('Ġfox')!;
    const less = { kept: kept.filter((id) => id !== gone), of };
    await expect(rowsOf({ ...context(recipe()), vocabulary: less })).rejects.toThrow(
      /rows\.jsonl: row \d+.*other tokens by the trimmed vocabulary.*"all"/s,
    );
    const json = JSON.parse(await readTokenizer('./student'));
    json.model.end_of_word_suffix = '</w>';
    const marked = models.get('./student')!;
    models.set('./marked', {
      name: './marked',
      open: async (path) =>
        path === 'tokenizer.json'
          ? new MemorySource('./marked/tokenizer.json', new TextEncoder().encode(JSON.stringify(json)))
          : marked.open(path),
    });
    const run = await testRun(
      host,
      recipe({
        student: { model: './marked', compress: { vocabulary: 'data' } },
        data: { source: './rows.jsonl' },
      }),
      local,
    );
    expect((await run.sit()).at(-1)).toMatchObject({
      kind: 'error',
      input: true,
      message: expect.stringMatching(/marked\/tokenizer\.json: model\.end_of_word_suffix.*trimmed/),
    });
  });

  it('measures the loss at the start of both, each in its own ids', async () => {
    const device = await (await import('./known-device.ts')).openKnownDevice(host);
    try {
      const { whole, student } = await startLossOf(context(recipe()), device);
      // the same model over fewer tokens: what is gone takes no probability
      expect(student).toBeLessThan(whole!);
      expect(student).toBeGreaterThan(0.5 * whole!);
    } finally {
      device.destroy();
    }
  });

  const readTokenizer = async (name: string): Promise<string> =>
    new TextDecoder().decode(await readAll((await models.get(name)!.open('tokenizer.json'))!));
});

describe('what a cache says to a student of fewer tokens', () => {
  it('leaves out the tokens that are gone, takes the next ones in their place, and moves the rest', async () => {
    const cache = {
      header: { k: 5, temperatures: [1, 2], entries: 'topk' },
      read: async () => ({
        positions: Int32Array.of(0, 1),
        ids: Int32Array.of(7, 3, 9, 1, 5, 2, 4, 6, 8, -1),
        logits: Float32Array.of(5, 4, 3, 2, 1, 5, 4, 3, 2, 0),
        log_z: Float32Array.of(0.1, 0.2, 0.3, 0.4),
      }),
    } as unknown as LogitCache;
    // 1, 3, 7 and 9 stay
    const ids = Int32Array.of(-1, 0, -1, 1, -1, -1, -1, 2, -1, 3);
    const batch = { rows: 1, length: 2, documents: [{ row: 0, at: 0, start: 0, length: 2 }] };
    const view = { cache, k: 3, temperature: 2, vocab_size: 4, ids };
    const { ids: said, logits, log_z } = await teacherBatch(view, batch as never, 0);
    expect([...said]).toEqual([2, 1, 3, 0, 1, 2]);
    expect([...logits].map((logit) => (logit < -1e29 ? 'none' : logit))).toEqual([5, 4, 3, 'none', 'none', 'none']);
    expect([...log_z].map((value) => Number(value.toFixed(3)))).toEqual([0.2, 0.4]);
  });

  it('counts each drawn token by how often it was drawn and how likely that was, and leaves out the same', async () => {
    const cache = {
      header: { k: 6, temperatures: [1, 2], entries: 'sampling' },
      read: async () => ({
        positions: Int32Array.of(1),
        ids: Int32Array.of(1, 1, 1, 5, 9, 9),
        logits: Float32Array.of(4, 4, 4, 2, 3, 3),
        log_z: Float32Array.of(4.5, 3.5),
      }),
    } as unknown as LogitCache;
    const ids = Int32Array.of(-1, 0, -1, 1, -1, -1, -1, 2, -1, 3);
    const batch = { rows: 1, length: 2, documents: [{ row: 0, at: 0, start: 0, length: 2 }] };
    const view = { cache, k: 4, temperature: 2, vocab_size: 4, ids };
    const { ids: said, logits, log_z, weights } = await teacherBatch(view, batch as never, 0);
    expect([...said.subarray(4)]).toEqual([0, 3, 1, 2]);
    expect([...logits.subarray(4, 6)]).toEqual([4, 3]);
    expect(Math.max(...logits.subarray(6))).toBeLessThan(-1e29);
    expect(log_z[1]).toBe(3.5);
    const likely = (z: number) => (Math.exp(z - 4.5) + Math.exp(z / 2 - 3.5)) / 2;
    expect(weights![4]).toBeCloseTo(3 / (6 * likely(4)), 5);
    expect(weights![5]).toBeCloseTo(2 / (6 * likely(3)), 5);
    expect([...weights!.subarray(0, 4), ...weights!.subarray(6)]).toEqual(new Array(6).fill(0));
  });
});
