/**
 * The job on a real adapter, kept in memory: whole, interrupted in every way that can be staged here, and resumed. What a
 * disturbed run leaves is, bit for bit, what an undisturbed one leaves.
 */
import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { noise } from '../engine/testing.ts';
import { MemorySource, readAll, type ByteSource, type FileSource } from '../formats/byte-source.ts';
import { readAdapter } from '../formats/peft.ts';
import { DownloadFault } from '../formats/download-fault.ts';
import { openSafetensors } from '../formats/safetensors.ts';
import type { RecipeInput } from '../recipe/schema.ts';
import { DiskFull } from '../store/faults.ts';
import type { LocalFiles } from './host.ts';
import { fewRows, memoryHost, testRun, type MemoryHost, type TestRun } from './testing.ts';
import { packedAs } from '../engine/graph/packing.ts';
import type { JobEvent, Report } from './protocol.ts';

const STEPS = 6;
/** Twelve rows: eight to train on, four to evaluate. */
const local = fewRows(12);

const recipe: RecipeInput = {
  name: 'tiny',
  seed: 3,
  student: { model: './arithmetic', compress: { layers: [0, 3] } },
  teacher: { kind: 'engine', model: './arithmetic' },
  data: { source: './few.jsonl', eval_fraction: 0.33, max_length: 48, assistant_only_loss: true },
  distill: { objective: 'forward_kl', temperature: 2, alpha: 0.9, k: 8 },
  lora: { r: 2, lora_alpha: 4, lora_dropout: 0.1, target_modules: ['q_proj', 'v_proj'] },
  training: {
    per_device_train_batch_size: 2,
    per_device_eval_batch_size: 2,
    max_steps: STEPS,
    learning_rate: 0.01,
    logging_steps: 2,
    eval_strategy: 'no',
    save_steps: 2,
    save_total_limit: 1,
  },
  export: { onnx: [], adapter: true },
};

const kinds = (events: readonly JobEvent[]): string[] =>
  events.flatMap((event) => (event.kind === 'step' ? [`${event.step} ${event.state}`] : []));

async function adapterOf(run: TestRun): Promise<string> {
  const source = await run.out.open('adapter/adapter_model.safetensors');
  return Buffer.from(await readAll(source!)).toString('base64');
}

/** Lines without what a clock says. */
async function linesOf(run: TestRun): Promise<unknown[]> {
  return (await run.lines()).map((event) => {
    if (event.kind !== 'metrics') throw new Error(event.kind);
    const { tokens_per_second: _rate, ...rest } = event.line;
    return rest;
  });
}

describe('a run', () => {
  let host: MemoryHost;
  let whole: { adapter: string; lines: unknown[] };

  beforeAll(async () => {
    host = await memoryHost();
    const run = await testRun(host, recipe, local);
    const events = await run.sit();
    expect(events.filter(({ kind }) => kind === 'error')).toEqual([]);
    expect(kinds(events)).toEqual(
      ['data', 'teacher', 'student', 'train', 'evaluate', 'export'].flatMap((step) => [
        `${step} running`,
        `${step} done`,
      ]),
    );
    const done = events.at(-1)!;
    if (done.kind !== 'done') throw new Error(`it ended with ${JSON.stringify(done)}`);
    expect(done.report.train.steps).toBe(STEPS);
    expect(done.report.train.eval_loss_after).toBeLessThan(done.report.train.eval_loss_before!);
    const { planned_bytes, measured_bytes } = done.report.train;
    expect(planned_bytes / measured_bytes).toBeGreaterThan(0.8);
    expect(planned_bytes / measured_bytes).toBeLessThan(1.25);
    expect(Object.keys(done.report.provenance.hashes).sort()).toEqual([
      'recipe',
      'rows as token ids',
      "student's weights",
      "teacher's weights",
      'tokenizer',
    ]);
    expect((await run.out.list()).sort()).toEqual([
      'adapter/adapter_config.json',
      'adapter/adapter_model.safetensors',
      'recipe.json',
      'report.html',
      'report.json',
    ]);
    whole = { adapter: await adapterOf(run), lines: await linesOf(run) };
    expect(whole.lines.map((line) => (line as { step: number }).step)).toEqual([0, 2, 4, 6, 6]);
  }, 1_200_000);

  afterAll(() => host?.devices.forEach((device) => device.destroy()));

  const expectSame = async (run: TestRun): Promise<void> => {
    expect((await run.facts()).state).toBe('done');
    expect(await adapterOf(run)).toBe(whole.adapter);
    expect(await linesOf(run)).toEqual(whole.lines);
  };

  it('fails where a download broke, which is no bad input, and goes on from there', async () => {
    let breaks = true;
    const folder = (value: string): FileSource => {
      const whole = local.folder(value);
      const open = async (path: string): Promise<ByteSource | undefined> => {
        const source = await whole.open(path);
        if (!source || path !== 'model.safetensors') return source;
        const { name, size } = source;
        const read: ByteSource['read'] = async (start, end) => {
          if (breaks && end > size / 2) throw new DownloadFault(name, 'it could not be fetched', 'the network');
          return source.read(start, end);
        };
        return { name, size, read };
      };
      return { ...whole, open };
    };
    const run = await testRun(host, recipe, { ...local, folder });
    const events = await run.sit();
    expect(events.at(-1)).toMatchObject({
      kind: 'error',
      input: false,
      message: expect.stringContaining('it could not be fetched: the network'),
    });
    expect((await run.facts()).state).toBe('failed');
    breaks = false;
    expect((await run.sit()).at(-1)!.kind).toBe('done');
    await expectSame(run);
  }, 600_000);

  it('goes on after a pause in every step as if there had been none', async () => {
    const run = await testRun(host, recipe, local);
    const paused = new Set<string>();
    for (;;) {
      const events = await run.sit((event, active) => {
        const at =
          event.kind === 'progress'
            ? `${event.step} ${event.unit}`
            : event.kind === 'metrics'
              ? `line ${event.line.step}`
              : '';
        if (at === '' || paused.has(at)) return;
        paused.add(at);
        active.asked = 'paused';
      });
      const last = events.at(-1)!;
      if (last.kind === 'done') break;
      expect(last).toEqual({ kind: 'paused', why: 'asked' });
      expect((await run.facts()).state).toBe('paused');
    }
    expect([...paused]).toEqual(
      expect.arrayContaining(['data rows', 'teacher rows', 'train steps', 'line 0', 'line 4']),
    );
    await expectSame(run);
  }, 1_200_000);

  it('gets a new device where the old one is lost, at any optimiser step', async () => {
    const run = await testRun(host, recipe, local);
    const lostAt = new Set<string>();
    const events = await run.sit((event) => {
      const at =
        event.kind === 'metrics'
          ? `line ${event.line.step}`
          : event.kind === 'checkpoint'
            ? `checkpoint ${event.step}`
            : `${event.kind} ${'step' in event ? event.step : ''}`;
      if (!['sample 0', 'line 2', 'checkpoint 4'].includes(at) || lostAt.has(at)) return;
      lostAt.add(at);
      host.devices.at(-1)!.destroy();
    });
    expect([...lostAt]).toEqual(['sample 0', 'line 2', 'checkpoint 4']);
    expect(events.filter((event) => event.kind === 'paused').map((event) => event.why)).toEqual(
      new Array(3).fill('device-lost'),
    );
    expect((await run.facts()).history.map(({ what }) => what)).toEqual(['started', 'fault', 'fault', 'fault', 'done']);
    await expectSame(run);
  }, 1_200_000);

  it.each<[string, Partial<RecipeInput['training']>]>([
    ['activations in 16 bits', { fp16: true }],
    ['updates in the backward pass, after a norm', { optimizer_in_bwd: true, max_grad_norm: 0.01 }],
  ])(
    'goes on in the same way with %s, a lost device included',
    async (_, training) => {
      const other: RecipeInput = { ...recipe, training: { ...recipe.training, ...training } };
      const calm = await testRun(host, other, local);
      const done = (await calm.sit()).at(-1)!;
      expect(done.kind === 'done' && done.report.train.optimizer_in_bwd).toBe(training?.optimizer_in_bwd);
      expect(await adapterOf(calm)).not.toBe(whole.adapter);
      const run = await testRun(host, other, local);
      let lost = false;
      await run.sit((event) => {
        if (event.kind !== 'checkpoint' || event.step !== 4 || lost) return;
        lost = true;
        host.devices.at(-1)!.destroy();
      });
      expect(lost).toBe(true);
      expect(await adapterOf(run)).toBe(await adapterOf(calm));
      expect(await linesOf(run)).toEqual(await linesOf(calm));
    },
    1_200_000,
  );

  it('ends in the same bits after twenty losses at random moments', async () => {
    const long: RecipeInput = { ...recipe, training: { ...recipe.training, max_steps: 22, save_steps: 1 } };
    const calm = await testRun(host, long, local);
    await calm.sit();
    const seed = Date.now() % 1_000_000;
    const run = await testRun(host, long, local);
    const lostIn = new Set<number>();
    const events = await run.sit((event) => {
      if (event.kind !== 'checkpoint' || event.step > 20 || lostIn.has(event.step)) return;
      lostIn.add(event.step);
      // anywhere in the step that follows, in its submits or while its results come home
      const [device, after] = [host.devices.at(-1)!, noise(1, seed + event.step)[0]! * 40 + 40];
      setTimeout(() => device.destroy(), after);
    });
    expect(events.at(-1)!.kind, `seed ${seed}`).toBe('done');
    expect(lostIn.size).toBe(20);
    const faults = (await run.facts()).history.filter(({ what }) => what === 'fault');
    expect(faults.length, `seed ${seed}`).toBeGreaterThanOrEqual(15);
    expect(await adapterOf(run), `seed ${seed}`).toBe(await adapterOf(calm));
    expect(await linesOf(run)).toEqual(await linesOf(calm));
  }, 1_200_000);

  it('gives up on a device that is lost again and again without a step in between', async () => {
    const run = await testRun(host, recipe, local);
    const events = await run.sit((event) => {
      if (event.kind === 'progress' && event.step === 'train') host.devices.at(-1)!.destroy();
    });
    expect(events.at(-1)).toMatchObject({ kind: 'error', input: false });
    expect(events.filter((event) => event.kind === 'paused')).toHaveLength(3);
    expect((await run.facts()).state).toBe('failed');
    await run.sit();
    await expectSame(run);
  }, 1_200_000);

  it('pauses on a full disk at any write, and goes on when there is room', async () => {
    const run = await testRun(host, recipe, local);
    // At its nth write in the nth sitting; what was written before stays written, so that one has fewer than n left.
    for (let sitting = 0; ; sitting++) {
      let writes = 0;
      host.shelf.breakWrite = () => (writes++ === sitting ? new DiskFull('test') : undefined);
      const events = await run.sit();
      host.shelf.breakWrite = () => undefined;
      const last = events.at(-1)!;
      if (last.kind === 'done') break;
      expect(last).toMatchObject({ kind: 'paused', why: 'disk-full', message: expect.stringContaining('no room') });
    }
    await expectSame(run);
  }, 1_200_000);

  it('stops with words at a loss that is no number, and keeps the checkpoint before it', async () => {
    const hot: RecipeInput = {
      ...recipe,
      training: {
        ...recipe.training,
        learning_rate: 100,
        max_grad_norm: 0,
        lr_scheduler_type: 'constant',
        max_steps: 60,
      },
      lora: { ...recipe.lora, lora_alpha: 9e15 },
    };
    const run = await testRun(host, hot, local);
    const events = await run.sit();
    expect(events.at(-1)).toMatchObject({ kind: 'error', message: expect.stringMatching(/not a number/) });
    expect((await run.facts()).state).toBe('failed');
  }, 1_200_000);

  it('learns from the file of a cache as from the teacher that made it, and refuses a file that is not of its rows', async () => {
    const maker = await testRun(host, { ...recipe, export: { ...recipe.export, logit_cache: true } }, local);
    await maker.sit();
    const file = await readAll((await maker.out.open('teacher.cache'))!);
    const served = (bytes: Uint8Array<ArrayBuffer>, rows = local): LocalFiles => ({
      ...rows,
      file: async (value) => (value === './teacher.cache' ? new MemorySource(value, bytes) : rows.file(value)),
    });
    const from: RecipeInput = { ...recipe, teacher: { kind: 'cache', source: './teacher.cache' } };
    const run = await testRun(host, from, served(file));
    expect((await run.sit()).at(-1)).toMatchObject({ kind: 'done', report: { teacher: { kind: 'cache' } } });
    expect(await adapterOf(run)).toBe(await adapterOf(maker));

    const bent = Uint8Array.from(file);
    bent[file.length >> 1]! ^= 1;
    for (const [words, asked, files] of [
      [/teacher\.cache: .*dataset/, from, served(file, fewRows(12, 'rows.jsonl'))],
      [/teacher\.cache: .*tokenizer/, { ...from, student: { ...from.student, add_tokens: ['<new>'] } }, served(file)],
      [/distill\.temperature: .*3/, { ...from, distill: { ...from.distill, temperature: 3 } }, served(file)],
      [/teacher\.cache: .*cut short/, from, served(file.subarray(0, file.length - 9))],
      [/teacher\.cache: .*damaged|checksum/, from, served(bent)],
    ] as [RegExp, RecipeInput, LocalFiles][]) {
      const refused = await testRun(host, asked, files);
      expect((await refused.sit()).at(-1)).toMatchObject({
        kind: 'error',
        input: true,
        message: expect.stringMatching(words),
      });
    }
  }, 1_200_000);

  it('refuses rows that have changed since it began', async () => {
    let now = local;
    const run = await testRun(host, recipe, { ...local, file: (value) => now.file(value) });
    await run.sit((event, active) => {
      if (event.kind === 'step' && event.step === 'teacher') active.asked = 'paused';
    });
    now = fewRows(12, 'rows.jsonl');
    const events = await run.sit();
    expect(events.at(-1)).toMatchObject({
      kind: 'error',
      input: true,
      message: expect.stringMatching(/has changed since this run began/),
    });
  }, 1_200_000);
});

describe('a run with new tokens and DoRA', () => {
  it('trains their rows beside the adapter, and what it exports computes the same', async () => {
    const run = await testRun(
      await memoryHost(),
      {
        ...recipe,
        student: { model: './arithmetic', compress: { layers: [0, 3] }, add_tokens: ['<hint>', '</hint>'] },
        teacher: { kind: 'none' },
        distill: { objective: 'none', alpha: 0 },
        lora: { r: 2, lora_alpha: 4, use_dora: true, target_modules: ['q_proj', 'v_proj'] },
        training: { ...recipe.training, max_steps: 2 },
        export: { onnx: ['fp32'], adapter: true },
      },
      local,
    );
    const events = await run.sit();
    expect(events.filter(({ kind }) => kind === 'error')).toEqual([]);
    const read = async (path: string): Promise<Uint8Array> => readAll((await run.out.open(path))!);
    const json = async (path: string) => JSON.parse(new TextDecoder().decode(await read(path)));
    const tokenizer = await json('model/tokenizer.json');
    const before = JSON.parse(readFileSync('public/bundled/arithmetic/config.json', 'utf8'));
    const config = await json('model/config.json');
    expect(tokenizer.added_tokens.at(-1)).toMatchObject({ content: '</hint>', special: true });
    expect(config.vocab_size).toBeGreaterThanOrEqual(tokenizer.added_tokens.at(-1).id + 1);
    expect(config.vocab_size).toBeGreaterThanOrEqual(before.vocab_size);
    const adapter = await json('adapter/adapter_config.json');
    expect(adapter).toMatchObject({ use_dora: true });
    expect([adapter.trainable_token_indices].flatMap((ids) => (Array.isArray(ids) ? ids : ids.lm_head))).toHaveLength(
      2,
    );
    const names = new TextDecoder().decode(await read('adapter/adapter_model.safetensors'));
    expect(names).toContain('embed_tokens.token_adapter.trainable_tokens_delta');
    expect(names).toContain('q_proj.lora_magnitude_vector"');
  });
});

describe('a run whose frozen weights are held packed', () => {
  const asked = (held: Pick<RecipeInput['student'], 'dtype' | 'block_size'>): RecipeInput => ({
    ...recipe,
    student: { model: './arithmetic', compress: { layers: [0, 3] }, ...held },
    teacher: { kind: 'none' },
    distill: { objective: 'none', alpha: 0 },
    // DoRA reads the frozen weight's norms: it is unpacked for those
    lora: { ...recipe.lora, use_dora: true },
    training: { ...recipe.training, eval_strategy: 'steps', eval_steps: 3 },
    export: { onnx: ['fp32'], adapter: true },
  });
  const reportOf = async (held: Parameters<typeof asked>[0]): Promise<Report> => {
    const run = await testRun(await memoryHost(), asked(held), local);
    const last = (await run.sit()).at(-1)!;
    if (last.kind !== 'done') throw new Error(JSON.stringify(last));
    return last.report;
  };
  /** The same run with f32, which all are compared with. */
  let plainly: Promise<Report> | undefined;

  it.each([
    ['f16', undefined],
    ['int8', 32],
    ['uint8', 64],
    ['int4', 32],
    ['uint4', 32],
    ['nf4', 64],
    ['int8', 64],
    ['uint8', 32],
    ['int4', 64],
    ['uint4', 64],
    ['nf4', 32],
  ] as const)(
    'as %s, %s numbers a block: takes less memory, trains, and exports what it measured',
    async (dtype, block) => {
      const own = packedAs(dtype, block) === dtype;
      const plain = await (plainly ??= reportOf({}));
      const packed = await reportOf({ dtype, ...(!own && { block_size: block }) });
      const fileOf = ({ export: { files } }: Report) => files.find(({ path }) => path.endsWith('model.onnx'))!;
      // of the frozen matrices' f32 bytes; norms, and with 4 bits the embedding's int8, take a few percent here
      const bytes = {
        ...{ f16: 2, int8: 1.125, uint8: 1.0625, int4: 0.625, uint4: 0.625, nf4: 0.5625 },
        ...{ int8_64: 1.0625, uint8_32: 1.125, int4_64: 0.5625, uint4_64: 0.5625, nf4_32: 0.625 },
      };
      const saved = 1 - bytes[packedAs(dtype, block)] / 4;
      const share = (plain.train.planned_bytes - packed.train.planned_bytes) / fileOf(plain).bytes;
      expect(share).toBeGreaterThan(saved - 0.08);
      expect(share).toBeLessThan(saved);
      // it starts from rounded weights: as far off as their bits are few; six steps at this rate rank nothing
      const off = { f16: 1e-3, int8: 1e-2, uint8: 1e-2, int4: 0.15, uint4: 0.15, nf4: 0.05 }[dtype];
      expect(Math.abs(packed.train.eval_loss_before! - plain.train.eval_loss_before!)).toBeLessThan(off);
      expect(packed.train.eval_loss_after).not.toBe(packed.train.eval_loss_before);
      // the adapter and the file are compared with the engine by the export itself: 1e-3 of the largest logit
      expect(fileOf(packed).max_logit_difference).toBeLessThan(1e-4);
    },
    1_200_000,
  );

  it('refuses to hold packed what is trained', async () => {
    const run = await testRun(
      await memoryHost(),
      { ...recipe, lora: null, student: { ...recipe.student, dtype: 'int8' } },
      local,
    );
    expect((await run.sit()).at(-1)).toMatchObject({
      kind: 'error',
      input: true,
      message: expect.stringMatching(/student\.dtype: holds frozen weights/),
    });
  }, 1_200_000);
});

describe('a run that trains modules whole', () => {
  const whole: RecipeInput = {
    ...recipe,
    teacher: { kind: 'none' },
    distill: { objective: 'none', alpha: 0 },
    lora: { r: 2, target_modules: ['q_proj'], modules_to_save: ['embed_tokens', 'norm'], bias: 'all' },
    training: { ...recipe.training, max_steps: 2 },
    export: { onnx: ['fp32'], adapter: true },
  };

  it('keeps them in the adapter as PEFT does, gives the head its own weight, and goes on from there', async () => {
    const run = await testRun(await memoryHost(), whole, local);
    expect((await run.sit()).filter(({ kind }) => kind === 'error')).toEqual([]);
    const bytes = async (path: string): Promise<Uint8Array> => readAll((await run.out.open(path))!);
    const config = JSON.parse(new TextDecoder().decode(await bytes('model/config.json')));
    expect(config.tie_word_embeddings).toBe(false);
    const { tensors } = await readAdapter(adapterOut(run));
    expect(new Set([...tensors.keys()].filter((name) => !name.includes('.lora_')))).toEqual(
      new Set([
        'model.embed_tokens.weight',
        ...[0, 1].map((i) => `model.layers.${i}.input_layernorm.weight`),
        ...[0, 1].map((i) => `model.layers.${i}.post_attention_layernorm.weight`),
        'model.norm.weight',
      ]),
    );
    const before = await openSafetensors((await local.folder('./arithmetic').open('model.safetensors')) as ByteSource);
    expect(tensors.get('model.embed_tokens.weight')!.data).not.toEqual(
      await before.readF32('model.embed_tokens.weight'),
    );

    const further = await testRun(
      await memoryHost(),
      {
        ...whole,
        student: { ...whole.student, adapter: './adapter' },
        training: { ...whole.training, learning_rate: 0 },
      },
      { ...local, folder: (value) => (value === './adapter' ? adapterOut(run) : local.folder(value)) },
    );
    expect((await further.sit()).filter(({ kind }) => kind === 'error')).toEqual([]);
    expect(await adapterOf(further)).toBe(await adapterOf(run));
  }, 600_000);

  it('trains DoRA on the head, leaves the embedding alone, pauses, and goes on from what it kept', async () => {
    const dora: RecipeInput = {
      ...whole,
      lora: { r: 2, lora_dropout: 0.1, use_dora: true, target_modules: ['q_proj', 'lm_head'] },
      training: { ...recipe.training, max_steps: 4 },
      export: { onnx: ['fp32'], adapter: true, safetensors: true },
    };
    const host = await memoryHost();
    const run = await testRun(host, dora, local);
    // the export compares the files with the engine: 1e-3 of the largest logit
    expect((await run.sit()).filter(({ kind }) => kind === 'error')).toEqual([]);
    const paused = await testRun(host, dora, local);
    await paused.sit((event, active) => {
      if (event.kind === 'metrics' && event.line.step === 2) active.asked = 'paused';
    });
    expect((await paused.facts()).state).toBe('paused');
    expect((await paused.sit()).filter(({ kind }) => kind === 'error')).toEqual([]);
    expect(await adapterOf(paused)).toBe(await adapterOf(run));

    const { tensors } = await readAdapter(adapterOut(run));
    const base = await openSafetensors((await local.folder('./arithmetic').open('model.safetensors')) as ByteSource);
    const written = await openSafetensors((await run.out.open('model/model.safetensors')) as ByteSource);
    const table = await base.readF32('model.embed_tokens.weight');
    expect(await written.readF32('model.embed_tokens.weight')).toEqual(table);
    const lengths = Float32Array.from({ length: table.length / 96 }, (_, v) =>
      Math.hypot(...table.subarray(v * 96, (v + 1) * 96)),
    );
    const magnitude = tensors.get('lm_head.lora_magnitude_vector.weight')!.data;
    expect(magnitude).not.toEqual(lengths);
    const head = await written.readF32('lm_head.weight');
    magnitude.forEach((length, v) => {
      expect(Math.hypot(...head.subarray(v * 96, (v + 1) * 96))).toBeCloseTo(Math.abs(length), 4);
    });

    const further = await testRun(
      await memoryHost(),
      { ...dora, student: { ...dora.student, adapter: './adapter' }, training: { ...dora.training, learning_rate: 0 } },
      { ...local, folder: (value) => (value === './adapter' ? adapterOut(run) : local.folder(value)) },
    );
    expect((await further.sit()).filter(({ kind }) => kind === 'error')).toEqual([]);
    expect(await adapterOf(further)).toBe(await adapterOf(run));
  }, 600_000);

  it('refuses a name that no module ends with', async () => {
    const run = await testRun(
      await memoryHost(),
      { ...whole, lora: { ...whole.lora, modules_to_save: ['tail'] } },
      local,
    );
    expect((await run.sit()).at(-1)).toMatchObject({
      kind: 'error',
      message: expect.stringContaining('"tail" names no module of ./arithmetic'),
    });
  });

  const adapterOut = ({ out }: TestRun): FileSource => ({
    name: './adapter',
    open: (path) => out.open(`adapter/${path}`),
  });
});
