/**
 * A job that only talks: plays a made-up distillation at any speed, so that screens can be looked at. Figures are invented
 * and stay in e2e/. `localStorage['scripted.speed']` is steps a second; `'scripted.fault'` one of the paused reasons.
 */
import type { JobApi, JobEvent, Preview, Report, RunSummary } from '../src/job/protocol.ts';
import type { Recipe, RecipeInput } from '../src/recipe/schema.ts';
import { parseRecipe } from '../src/recipe/parse.ts';

const STEPS = 300;
const wait = (ms: number) => new Promise((done) => setTimeout(done, ms));
const speed = () => Number(localStorage.getItem('scripted.speed') ?? 10);
const fault = () => localStorage.getItem('scripted.fault');

interface Kept {
  summary: RunSummary;
  events: JobEvent[];
}
const KEY = 'scripted.runs';
const read = (): Kept[] => JSON.parse(localStorage.getItem(KEY) ?? '[]') as Kept[];
const write = (runs: Kept[]) => localStorage.setItem(KEY, JSON.stringify(runs));
let halt: 'pause' | 'stop' | undefined;
let hush = false;

const noise = (i: number) => Math.sin(i * 12.9898) * 43758.5453 - Math.floor(Math.sin(i * 12.9898) * 43758.5453) - 0.5;
const wilson = (value: number, rows: number) => {
  const z = 1.96;
  const middle = (value + (z * z) / (2 * rows)) / (1 + (z * z) / rows);
  const half = (z * Math.sqrt((value * (1 - value)) / rows + (z * z) / (4 * rows * rows))) / (1 + (z * z) / rows);
  return { value, low: middle - half, high: middle + half, rows };
};

const ESTIMATE = {
  gpu_bytes: 31e6,
  weights_bytes: 3.2e6,
  optimizer_bytes: 5.6e6,
  activations_bytes: 22.2e6,
  cache_bytes: 1.1e6,
  disk_bytes: 9.2e6,
  steps: STEPS,
  seconds_per_step: 0.1,
  flops_per_token: 2.7e6,
  tokens_per_second: 900,
  seconds: 42,
  teacher_parameters: 452_000,
  student_parameters: 343_000,
  trainable_parameters: 343_000,
  train_rows: 200,
  eval_rows: 50,
};

function report(recipe: Recipe, right: number): Report {
  return {
    recipe,
    adapter: {
      vendor: 'scripted',
      architecture: '',
      device: '',
      description: 'Scripted adapter',
      software: false,
      user_agent: navigator.userAgent,
    },
    data: {
      read: 250,
      kept: 250,
      cut: 0,
      dropped: [],
      tokens: 9000,
      counted_share: 0.6,
      train_rows: 200,
      eval_rows: 50,
    },
    teacher: {
      kind: recipe.teacher.kind,
      parameters: 452_000,
      tokens_per_second: 21000,
      cache_bytes: 1.1e6,
      mass_kept: { '1': 0.9994 },
    },
    train: {
      steps: STEPS,
      tokens: 172800,
      tokens_per_second: 5600,
      eval_loss_before: 1.92,
      eval_loss_after: 0.31,
      planned_bytes: 31e6,
      measured_bytes: 30.4e6,
      seconds: 39,
    },
    evaluate: {
      tasks: [
        {
          name: 'exact_match',
          metric: 'exact_match',
          teacher: wilson(0.98, 200),
          start: wilson(0, 200),
          student: wilson(right, 200),
        },
      ],
      student_parameters: 343_000,
    },
    export: {
      seconds: 2,
      files: [
        {
          path: 'model/onnx/model.onnx',
          bytes: 1_402_000,
          dtype: 'fp32',
          max_logit_difference: 1.4e-6,
          top1_agreement: 1,
        },
        {
          path: 'model/onnx/model_fp16.onnx',
          bytes: 731_000,
          dtype: 'fp16',
          max_logit_difference: 1.1e-3,
          top1_agreement: 1,
        },
        {
          path: 'model/onnx/model_quantized.onnx',
          bytes: 402_000,
          dtype: 'q8',
          max_logit_difference: 2.3e-2,
          top1_agreement: 0.98,
        },
        { path: 'model/tokenizer.json', bytes: 5_100, dtype: '' },
        { path: 'model/config.json', bytes: 600, dtype: '' },
      ],
    },
    history: [
      { time: new Date().toISOString(), what: 'started' },
      { time: new Date().toISOString(), what: 'done' },
    ],
    provenance: { stillroom: '0.1.0', hashes: { data: 'c0ffee'.repeat(10) }, commits: {} },
  };
}

async function* story(recipe: Recipe, from: number): AsyncGenerator<JobEvent> {
  const taught = recipe.teacher.kind !== 'none';
  yield {
    kind: 'adapter',
    vendor: 'scripted',
    architecture: '',
    device: '',
    description: 'Scripted adapter',
    software: false,
    limits: { maxBufferSize: 4294967296 },
    features: [],
  };
  yield { kind: 'estimate', estimate: ESTIMATE };
  if (from === 0) {
    yield { kind: 'step', step: 'data', state: 'running' };
    await wait(200);
    yield { kind: 'fact', step: 'data', facts: { rows: 250, tokens: 9000 } };
    yield { kind: 'step', step: 'data', state: 'done' };
    yield { kind: 'step', step: 'teacher', state: taught ? 'running' : 'skipped' };
    for (let row = 0; taught && row <= 250; row += 25) {
      yield {
        kind: 'progress',
        step: 'teacher',
        done: row,
        of: 250,
        unit: 'rows',
        rate: 190,
        seconds_left: (250 - row) / 190,
      };
      await wait(300 / speed());
    }
    if (taught) {
      yield { kind: 'fact', step: 'teacher', facts: { cache_bytes: 1.1e6, tokens_per_second: 21000 } };
      yield { kind: 'step', step: 'teacher', state: 'done' };
    }
    yield { kind: 'step', step: 'student', state: 'running' };
    yield { kind: 'fact', step: 'student', facts: { parameters: 343_000 } };
    yield { kind: 'step', step: 'student', state: 'done' };
    if (taught) yield { kind: 'score', step: 0, who: 'teacher', task: 'exact_match', figure: wilson(0.98, 64) };
    yield { kind: 'score', step: 0, who: 'student', task: 'exact_match', figure: wilson(0, 64) };
  }
  yield { kind: 'step', step: 'train', state: 'running' };
  for (let step = from + 1; step <= STEPS; step++) {
    await wait(1000 / speed());
    const kl = 1.5 * Math.exp(-step / 60) + 0.12 + (taught ? 0 : 0.2) + 0.09 * noise(step);
    yield {
      kind: 'progress',
      step: 'train',
      done: step,
      of: STEPS,
      unit: 'steps',
      rate: speed(),
      seconds_left: (STEPS - step) / speed(),
    };
    if (step % 5 === 0)
      yield {
        kind: 'metrics',
        line: {
          step,
          epoch: step / 13,
          loss: 1.2 * kl + 0.1,
          kl: taught ? kl : undefined,
          ce: kl + 0.05,
          grad_norm: 0.4 + 0.1 * noise(step + 7),
          learning_rate: 1e-3 * Math.min(step / 15, (1 + Math.cos((Math.PI * step) / STEPS)) / 2),
          mean_token_accuracy: 1 - kl / 3,
          tokens_per_second: 5600,
        },
      };
    if (step % 50 === 0) {
      yield {
        kind: 'metrics',
        line: { step, epoch: step / 13, eval_loss: 1.2 * kl + 0.2, eval_kl: kl + 0.04, eval_ce: kl + 0.1 },
      };
      yield {
        kind: 'score',
        step,
        who: 'student',
        task: 'exact_match',
        figure: wilson(Math.min(taught ? 0.69 : 0.58, step / 400), 64),
      };
      yield {
        kind: 'sample',
        step,
        prompt: '47 + 38 = ?',
        expected: '<think>7 + 8 = 15, write 5, carry 1; 4 + 3 + 1 = 8</think>85',
        teacher: taught ? '<think>7 + 8 = 15, write 5, carry 1; 4 + 3 + 1 = 8</think>85' : undefined,
        student: '<think>7 + 8 = 15, write 5, carry 0; 4 + 3 = 7</think>75',
      };
      yield { kind: 'checkpoint', step, bytes: 4.1e6 };
    }
    const why = fault();
    if (why && step === 128) {
      yield { kind: 'paused', why: why as 'disk-full' };
      return;
    }
    if (halt) {
      yield { kind: 'checkpoint', step, bytes: 4.1e6 };
      if (halt === 'pause') yield { kind: 'paused', why: 'asked' };
      return;
    }
  }
  yield { kind: 'step', step: 'train', state: 'done' };
  yield { kind: 'step', step: 'evaluate', state: 'running' };
  for (let n = 0; n <= 200; n += 50) {
    yield { kind: 'progress', step: 'evaluate', done: n, of: 200, unit: 'answers', rate: 90 };
    await wait(300 / speed());
  }
  yield { kind: 'step', step: 'evaluate', state: 'done' };
  yield { kind: 'step', step: 'export', state: 'running' };
  await wait(500 / speed());
  yield { kind: 'step', step: 'export', state: 'done' };
  yield { kind: 'done', report: report(recipe, taught ? 0.69 : 0.58) };
}

async function say(text: string, onText: (text: string) => void): Promise<string> {
  hush = false;
  let said = '';
  for (const character of text) {
    if (hush) break;
    await wait(25);
    said += character;
    onText(said);
  }
  return said;
}

const PREVIEW: Preview = {
  format: 'messages',
  rows: 250,
  columns: ['messages'],
  cut: 0,
  longest: 46,
  problems: [],
  samples: [
    ['47 + 38 = ?', '<think>7 + 8 = 15, write 5, carry 1; 4 + 3 + 1 = 8</think>85'],
    ['90 - 17 = ?', '<think>10 - 7 = 3, write 3, borrow 1; 9 - 1 - 1 = 7</think>73'],
  ].map(([q, a]) => ({
    messages: [
      { role: 'user', content: q! },
      { role: 'assistant', content: a! },
    ],
    tokens: [
      ...[
        '<|im_start|>',
        'user',
        '\n',
        ...q!.split(/(?<= )/),
        '<|im_end|>',
        '\n',
        '<|im_start|>',
        'assistant',
        '\n',
      ].map((text) => ({ text, counts: false })),
      ...[...a!.split(/(?<=[ ;,>])|(?=<)/), '<|im_end|>'].map((text) => ({ text, counts: true })),
      { text: '\n', counts: false },
    ],
  })),
};

const api: JobApi = {
  async create(recipe: RecipeInput) {
    const filled = parseRecipe(recipe, 'recipe');
    const summary: RunSummary = {
      id: `r${Date.now()}`,
      name: filled.name,
      created: new Date().toISOString(),
      state: 'new',
      recipe: filled,
      bytes: 0,
      step: 0,
      of: STEPS,
    };
    write([{ summary, events: [] }, ...read()]);
    return summary;
  },
  runs: async () => read().map(({ summary }) => summary),
  events: async (id) => read().find(({ summary }) => summary.id === id)?.events ?? [],
  remove: async (id) => write(read().filter(({ summary }) => summary.id !== id)),
  files: async () =>
    ['model/config.json', 'model/onnx/model.onnx', 'report.json'].map((path) => ({
      path,
      blob: new Blob([`{"path":"${path}"}`]),
    })),
  backup: async (id) => new Blob([JSON.stringify(read().find(({ summary }) => summary.id === id))]),
  async restore(file) {
    const kept = JSON.parse(await file.text()) as Kept;
    write([kept, ...read().filter(({ summary }) => summary.id !== kept.summary.id)]);
    return kept.summary;
  },
  async preview(recipe) {
    await wait(150);
    if (recipe.data.source.startsWith('bundled:')) return PREVIEW;
    return {
      ...PREVIEW,
      rows: 12,
      problems: [
        { line: 3, field: 'messages', what: 'the last message is not the assistant’s' },
        { line: 7, what: 'is not JSON (Unexpected end of JSON input)' },
      ],
    };
  },
  async estimate({ student }) {
    await wait(150);
    if (student.compress?.vocabulary !== 'data') return ESTIMATE;
    return { ...ESTIMATE, student_parameters: 339_000, vocabulary: { kept: 1234, of: 49152 } };
  },
  async run(id, onEvent) {
    halt = undefined;
    const runs = read();
    const kept = runs.find(({ summary }) => summary.id === id)!;
    const from = kept.summary.step;
    for await (const event of story(kept.summary.recipe, from)) {
      onEvent(event);
      kept.events = [
        ...kept.events.filter((old) => event.kind !== 'progress' || old.kind !== 'progress' || old.step !== event.step),
        event,
      ];
      const step = event.kind === 'progress' && event.step === 'train' ? event.done : kept.summary.step;
      const state =
        event.kind === 'done' ? 'done' : event.kind === 'paused' ? 'paused' : halt === 'stop' ? 'stopped' : 'running';
      kept.summary = { ...kept.summary, step, state, bytes: 9.2e6 };
      if (['step', 'checkpoint', 'paused', 'done'].includes(event.kind))
        write([kept, ...read().filter(({ summary }) => summary.id !== id)]);
    }
    write([kept, ...read().filter(({ summary }) => summary.id !== id)]);
  },
  pause: async () => void (halt = 'pause'),
  stop: async () => void (halt = 'stop'),
  chat: (_id, who, messages, _settings, onText) =>
    say(
      who === 'teacher'
        ? `<think>7 + 8 = 15, write 5, carry 1; 4 + 3 + 1 = 8</think>85`
        : `<think>7 + 8 = 15, write 5, carry 1; 4 + 3 = 7</think>75 ${messages.length > 2 ? 'again' : ''}`,
      onText,
    ),
  stopChat: async () => void (hush = true),
  nextToken: async () => [
    { token: '1', teacher: 0.94, student: 0.61 },
    { token: '0', teacher: 0.05, student: 0.27 },
    { token: '2', teacher: 0.006, student: 0.08 },
  ],
  openAnswer: async (_id, _messages, answer) =>
    (answer.match(/<\/?think>| ?[^\s<]+|\s/g) ?? []).map((text, i) => ({
      text,
      kl: i % 5 === 3 ? 1.1 : 0.02 * (i % 3),
      choices: [
        { token: text, teacher: i % 5 === 3 ? 0.05 : 0.97, student: i % 5 === 3 ? 0.61 : 0.94 },
        { token: ' carry', teacher: 0.01, student: 0.02 },
      ],
    })),
  hub: async (settings) => settings ?? { huggingface: 'https://huggingface.co', modelscope: 'https://modelscope.cn' },
  encoderSizes: async (model) =>
    model.includes('bert') ? { num_hidden_layers: 12, hidden_size: 768, intermediate_size: 3072 } : undefined,
  teacherKey: async () => undefined,
  tryTeacher: async (url) =>
    url.endsWith(':8000')
      ? { answers: true, logprobs: 'vLLM' }
      : { answers: false, fault: 'unreached', message: `${url}: can’t be reached (Failed to fetch)` },
  headless: async () => Promise.reject(new Error('nobody drives this page')),
  async startLoss(_recipe, _files, _like, onProgress) {
    onProgress(0, 2);
    await wait(150);
    onProgress(1, 2);
    await wait(150);
    return { rows: 16, student: 9.6123, whole: 3.2051 };
  },
  async bench(_suites, onResult) {
    const results = [
      { suite: 'matmul', name: 'NT 512x512x512', ms: 0.41, gflops: 654, fraction_of_peak: 0.61 },
      { suite: 'memory', name: 'decode, SmolLM2-135M shape, batch 1', ms: 9.1, gbps: 59, fraction_of_stream: 0.82 },
    ] as const;
    for (const result of results) {
      await wait(150);
      onResult(result);
    }
    const adapter = { name: 'A laptop', vendor: 'apple', architecture: 'common-3', software: false };
    return {
      adapter,
      peak_gflops: 1072,
      stream_gbps: 72,
      unrolled: { peak_gflops: 1103, stream_gbps: 74 },
      results,
      summary: { matmul_fraction_of_peak: 0.61 },
    };
  },
};

export const job = (): JobApi => api;
