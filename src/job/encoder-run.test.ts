/** A run whose student and teacher are encoders, whole: rows masked, the teacher's logits cached, trained, exported, verified. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { MemorySource, readAll, type FileSource } from '../formats/byte-source.ts';
import { readAdapter } from '../formats/peft.ts';
import { openSafetensors } from '../formats/safetensors.ts';
import { tinyEncoderFolder, WORDS, type TinyEncoder } from '../models/architectures/tiny-encoder.testing.ts';
import { openAnyModel } from '../models/model.ts';
import type { RecipeInput } from '../recipe/schema.ts';
import type { LocalFiles } from './host.ts';
import type { Report } from './protocol.ts';
import { Talk } from './talk.ts';
import { diskFiles, memoryHost, testRun, type MemoryHost, type TestRun } from './testing.ts';

const rows = Array.from({ length: 24 }, (_, row) => {
  const words = Array.from({ length: 4 + (row % 7) }, (_, i) => WORDS[(row * 5 + i * 3) % WORDS.length]!);
  return JSON.stringify({ text: words.join(' ') });
});

const disk = diskFiles('public/bundled');
const models: ReadonlyMap<string, FileSource> = new Map(
  await Promise.all(
    (['bert', 'distilbert'] as const).flatMap((name) =>
      [false, true].map(async (bare) => {
        const folder = await tinyEncoderFolder(name, bare);
        return [folder.name, folder] as const;
      }),
    ),
  ),
);
const local: LocalFiles = {
  has: (value) => value.startsWith('./'),
  folder: (value) => models.get(value) ?? disk.folder(value),
  file: async (value) =>
    value === './rows.jsonl' ? new MemorySource(value, new TextEncoder().encode(rows.join('\n'))) : disk.file(value),
};

const recipe = (name: TinyEncoder): RecipeInput => ({
  name: 'tiny',
  seed: 3,
  student: { model: `./${name}`, compress: { layers: [1], from: 'teacher' } },
  teacher: { kind: 'engine', model: `./${name}` },
  data: { source: './rows.jsonl', eval_fraction: 0.25 },
  distill: { objective: 'forward_kl', temperature: 2, alpha: 0.9, k: 16 },
  lora: null,
  training: {
    per_device_train_batch_size: 3,
    per_device_eval_batch_size: 3,
    max_steps: 12,
    learning_rate: 0.01,
    logging_steps: 4,
    save_steps: 6,
  },
  export: { onnx: ['fp32', 'q8'], adapter: true, safetensors: true },
});

describe('a run of encoders', { timeout: 600_000 }, () => {
  let host: MemoryHost;
  beforeAll(async () => {
    host = await memoryHost();
  });
  afterAll(() => host?.devices.forEach((device) => device.destroy()));

  async function reportOf(run: TestRun): Promise<Report> {
    const last = (await run.sit()).at(-1)!;
    if (last.kind !== 'done') throw new Error(JSON.stringify(last));
    return last.report;
  }
  const json = async (run: TestRun, path: string): Promise<Record<string, unknown>> =>
    JSON.parse(new TextDecoder().decode(await readAll((await run.out.open(path))!)));

  it.each(['bert', 'distilbert'] as const)(
    '%s into one of its layers: nearer to it, and the files compute the same',
    async (name) => {
      const run = await testRun(host, recipe(name), local);
      const { train, data, teacher, export: exported } = await reportOf(run);
      expect(train.eval_loss_after).toBeLessThan(0.9 * train.eval_loss_before!);
      expect(data.counted_share).toBeGreaterThan(0.1);
      expect(data.counted_share).toBeLessThan(0.3);
      expect(teacher.mass_kept!['1']).toBeGreaterThan(0.5);
      const of = (path: string) => exported.files.find((file) => file.path === path)!;
      expect(of('model/onnx/model.onnx').max_logit_difference).toBeLessThan(1e-5);
      expect(of('model/onnx/model.onnx').top1_agreement).toBe(1);
      const { eval_loss_before, eval_loss_after } = of('model/onnx/model.onnx');
      expect(eval_loss_after).toBeCloseTo(eval_loss_before!, 5);
      expect(of('model/onnx/model_quantized.onnx').eval_loss_after).toBeCloseTo(eval_loss_before!, 1);
      const weights = await openSafetensors((await run.out.open('model/model.safetensors'))!);
      const whole = await openSafetensors((await models.get(`./${name}`)!.open('model.safetensors'))!);
      const layers = [...weights.tensors.keys()].filter((one) => /layer\.\d/.test(one));
      expect(layers.length).toBeGreaterThan(10);
      expect(layers.every((one) => one.includes('layer.0.'))).toBe(true);
      // the head's bias is trained too
      const bias = [...weights.tensors.keys()].find((one) => /predictions\.bias|vocab_projector\.bias/.test(one))!;
      expect(await weights.readF32(bias)).not.toEqual(await whole.readF32(bias));
      expect((await json(run, 'model/config.json')).architectures ?? []).not.toContain('BertModel');
    },
  );

  it('with an adapter on query and value, in packed rows', async () => {
    const base = recipe('bert');
    const run = await testRun(
      host,
      {
        ...base,
        data: { ...base.data, packing: true, max_length: 24 },
        lora: { r: 2, lora_alpha: 8, lora_dropout: 0.1 },
      },
      local,
    );
    const { train, export: exported } = await reportOf(run);
    expect(train.eval_loss_after).toBeLessThan(train.eval_loss_before!);
    const { config, tensors } = await readAdapter({ name: 'adapter', open: (path) => run.out.open(`adapter/${path}`) });
    expect(config).toMatchObject({ target_modules: ['query', 'value'], task_type: null });
    expect([...tensors.keys()].sort()).toEqual(
      ['query', 'value'].flatMap((part) =>
        ['A', 'B'].map((side) => `bert.encoder.layer.0.attention.self.${part}.lora_${side}.weight`),
      ),
    );
    expect(exported.files.find(({ path }) => path.endsWith('model.onnx'))!.max_logit_difference).toBeLessThan(1e-5);
  });

  it('cut by importance, narrower', async () => {
    const base = recipe('bert');
    const { train, export: exported } = await reportOf(
      await testRun(
        host,
        {
          ...base,
          student: {
            model: './bert',
            compress: {
              hidden_size: 8,
              num_attention_heads: 2,
              intermediate_size: 16,
              init: 'importance',
              from: 'teacher',
            },
          },
          export: { onnx: ['fp32'] },
        },
        local,
      ),
    );
    expect(train.eval_loss_after).toBeLessThan(train.eval_loss_before!);
    expect(exported.files.find(({ path }) => path.endsWith('model.onnx'))!.max_logit_difference).toBeLessThan(1e-5);
  });

  it.each(['bert', 'distilbert'] as const)(
    'a bare %s gets a new head, learns, and is written with it',
    async (name) => {
      const base = recipe(name);
      const run = await testRun(
        host,
        { ...base, student: { model: `./bare-${name}` }, export: { onnx: ['fp32'], safetensors: true } },
        local,
      );
      const events = await run.sit();
      expect(events).toContainEqual(
        expect.objectContaining({
          kind: 'fact',
          step: 'student',
          facts: expect.objectContaining({ masked_lm_head: 'new' }),
        }),
      );
      const last = events.at(-1)!;
      if (last.kind !== 'done') throw new Error(JSON.stringify(last));
      const { train, export: exported } = last.report;
      expect(train.eval_loss_after).toBeLessThan(train.eval_loss_before!);
      expect(exported.files.find(({ path }) => path.endsWith('model.onnx'))!.max_logit_difference).toBeLessThan(1e-5);
      const weights = await openSafetensors((await run.out.open('model/model.safetensors'))!);
      // transformers reads a model with a head under the names of one
      const { parameters } = await openAnyModel(models.get(`./${name}`)!);
      expect(new Set(weights.tensors.keys())).toEqual(new Set(parameters.keys()));
      const { architectures } = await json(run, 'model/config.json');
      expect(architectures).toEqual([{ bert: 'BertForMaskedLM', distilbert: 'DistilBertForMaskedLM' }[name]]);
    },
  );

  it('is not talked to, and says why', async () => {
    const run = await testRun(host, recipe('bert'), local);
    const inputs = host.shelf.folder(run.id, 'inputs');
    for (const file of ['config.json', 'tokenizer.json']) {
      await inputs.write(`bert/${file}`, [await readAll((await models.get('./bert')!.open(file))!)]);
    }
    const talk = new Talk(Promise.resolve(host));
    const words = './bert: is an encoder: it reads text and does not write it: a model that writes text';
    const settings = { temperature: 0, top_p: 1, max_new_tokens: 4, seed: 0 };
    const said = talk.chat(await run.facts(), 'student', [{ role: 'user', content: 'w1' }], settings, () => undefined);
    await expect(said).rejects.toThrow(words);
    await expect(talk.nextToken(await run.facts(), 'w1', 5)).rejects.toThrow(words);
    await talk.close();
  });

  it.each([
    [
      { evaluate: { tasks: [{ task: 'exact_match', source: './rows.jsonl' }] } },
      /evaluate\.tasks: asks for answers.*encoder/,
    ],
    [{ export: { gguf: ['F32'] } }, /export\.gguf: has no form for an encoder/],
    [
      { teacher: { kind: 'engine', model: './arithmetic' }, student: { model: './bert' } },
      /writes text, and the student.*is an encoder/,
    ],
    [
      { student: { model: './arithmetic', compress: { from: 'teacher' } } },
      /is an encoder, and student\.model.*other kind/,
    ],
    [{ student: { model: './arithmetic' } }, /is an encoder, and the student.*writes text/],
    [
      { student: { model: './bare-bert' }, lora: { r: 2 } },
      /masked-LM head: there is none, and an adapter alone can’t teach a new one: .*lora: null/,
    ],
    [
      { teacher: { kind: 'engine', model: './bare-bert' } },
      /masked-LM head: there is none, so it has no logits: a teacher with its head: .*makes and trains one/,
    ],
    [{ student: { model: './bert', add_tokens: ['<new>'] } }, /student\.add_tokens.*encoder/],
  ] as [Partial<RecipeInput>, RegExp][])('refuses %j in words', async (asked, words) => {
    const run = await testRun(host, { ...recipe('bert'), ...asked }, local);
    const last = (await run.sit()).at(-1)!;
    expect(last).toMatchObject({ kind: 'error', input: true, message: expect.stringMatching(words) });
  });
});
