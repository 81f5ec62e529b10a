/** The job in a worker of a real browser: made, looked at, paused, resumed, wanted by two tabs, talked to, taken elsewhere. */
import { rm } from 'node:fs/promises';
import path from 'node:path';
import { chromium, type BrowserContext, type Page } from 'playwright-core';
import { createServer, type ViteDevServer } from 'vite';
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest';
import type { Estimate, JobEvent, OpenedToken, Preview, RunSummary, TokenChoice } from '../src/job/protocol.ts';
import { temporaryFolder } from './harness.ts';

let folder: string;
let server: ViteDevServer;
let context: BrowserContext;
let page: Page;

beforeAll(async () => {
  folder = await temporaryFolder('job');
  server = await createServer({
    root: inject('root'),
    configFile: false,
    logLevel: 'error',
    appType: 'custom',
    cacheDir: path.join(folder, 'vite'),
    worker: { format: 'es' },
    optimizeDeps: {
      entries: ['workers/engine.worker.ts', 'e2e/job-in-page.ts'],
      exclude: ['onnxruntime-web'],
    },
    server: { port: 0, host: '127.0.0.1', hmr: false, watch: null },
    plugins: [
      {
        name: 'empty-page',
        configureServer(vite) {
          vite.middlewares.use('/empty.html', (_request, response) => {
            response.setHeader('content-type', 'text/html').end('<!doctype html><title>job</title>');
          });
        },
      },
    ],
  });
  await server.listen();
  const { port } = server.httpServer!.address() as { port: number };
  const browser = inject('browser');
  context = await chromium.launchPersistentContext(path.join(folder, 'profile'), {
    executablePath: browser.path,
    env: { ...(process.env as Record<string, string>), ...browser.env },
    args: ['--enable-unsafe-webgpu', '--use-webgpu-adapter=swiftshader', '--no-sandbox'],
    headless: true,
  });
  page = context.pages()[0] ?? (await context.newPage());
  page.on('pageerror', (error) => console.error(error));
  await page.goto(`http://127.0.0.1:${port}/empty.html`);
});

afterAll(async () => {
  await context?.close();
  await server?.close();
  if (folder) await rm(folder, { recursive: true, force: true, maxRetries: 5 });
});

const call = <T>(name: string, ...args: unknown[]): Promise<T> =>
  page.evaluate(
    `import('/e2e/job-in-page.ts').then((module) => module.${name}(...${JSON.stringify(args)}))`,
  ) as Promise<T>;

describe('the job in a worker', () => {
  let run: RunSummary;

  it('shows rows and costs before there is a run', async () => {
    const { preview, estimate } = await call<{ preview: Preview; estimate: Estimate }>('looks');
    expect(preview).toMatchObject({ format: 'messages', rows: 12, problems: [], cut: 0 });
    expect(preview.samples[0]!.messages[1]!.role).toBe('assistant');
    const counted = preview.samples[0]!.tokens!.filter(({ counts }) => counts).map(({ text }) => text);
    expect(counted.join('')).toContain(preview.samples[0]!.messages[1]!.content);
    expect(counted.join('')).not.toContain('=?');
    expect(estimate).toMatchObject({ steps: 4, train_rows: 9, eval_rows: 3, teacher_parameters: 449376 });
    expect(estimate.gpu_bytes).toBeGreaterThan(estimate.weights_bytes);
  });

  it('keeps a run with what was brought, pauses it, and tells it again as it was told', async () => {
    run = await call<RunSummary>('create');
    expect(run).toMatchObject({ state: 'new', name: 'in the page' });
    expect(run.bytes).toBeGreaterThan(500);
    const said = await call<JobEvent[]>('sit', run.id, 2);
    expect(said.at(-1)).toEqual({ kind: 'paused', why: 'asked' });
    const [kept] = await call<RunSummary[]>('runs');
    expect(kept).toMatchObject({ id: run.id, state: 'paused', of: 4 });
    const told = await call<JobEvent[]>('events', run.id);
    expect(told.at(-1)).toEqual({ kind: 'paused', why: 'asked' });
    const lines = (events: JobEvent[]) => events.filter(({ kind }) => kind === 'metrics');
    expect(lines(told)).toEqual(lines(said));
  });

  it('goes on with it, and refuses it to another tab meanwhile', async () => {
    const { here, there } = await call<{ here: JobEvent[]; there: JobEvent[] }>('busy', run.id);
    expect(there).toEqual([{ kind: 'paused', why: 'busy-elsewhere', message: expect.stringContaining('another tab') }]);
    expect(here.at(-1)).toMatchObject({ kind: 'done', report: { train: { steps: 4 } } });
    const steps = here.flatMap((event) => (event.kind === 'metrics' ? [event.line.step] : []));
    expect(steps[0]).toBeGreaterThan(1);
    expect(Object.keys(await call<Record<string, number>>('written', run.id)).sort()).toEqual(
      expect.arrayContaining([
        'adapter/adapter_model.safetensors',
        'metrics.jsonl',
        'model/onnx/model.onnx',
        'report.html',
      ]),
    );
  });

  it('talks as teacher, as the student before and after, says what comes next, and opens what was said', async () => {
    const { answers, next, opened } = await call<{
      answers: Record<string, { text: string; heard: number }>;
      next: TokenChoice[];
      opened: OpenedToken[];
    }>('talk', run.id);
    expect(Object.keys(answers)).toEqual(['teacher', 'start', 'student']);
    expect(answers.teacher!.text).toMatch(/^<think>/);
    expect(answers.teacher!.heard).toBe(6);
    expect(next).toHaveLength(3);
    for (const { teacher = 0, student = 0 } of next) expect(teacher + student).toBeGreaterThan(0);
    expect(opened.map(({ text }) => text).join('')).toBe(answers.student!.text);
    for (const { text, kl, choices } of opened) {
      expect(kl).toBeGreaterThanOrEqual(0);
      // it was written greedily: at each place the student's likeliest token stands
      const [likeliest] = [...choices].sort((a, b) => (b.student ?? 0) - (a.student ?? 0));
      expect(likeliest!.token).toBe(text);
    }
  });

  it('lends what it was brought to another run', async () => {
    const { rows, kept, without } = await call<{ rows: number; kept: string[]; without: string }>('another', run.id);
    expect(rows).toBe(12);
    expect(kept).toHaveLength(2);
    expect(without).toMatch(/rows\.jsonl/);
  });

  it('is backed up into one file, forgotten, and restored', async () => {
    expect(await call('thereAndBack', run.id)).toEqual({ same: true, left: 0, state: 'done' });
  });
});
