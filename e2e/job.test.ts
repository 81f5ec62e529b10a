/** The job in a worker of a real browser: made, looked at, paused, resumed, wanted by two tabs, talked to, taken elsewhere. */
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest';
import type { Estimate, JobEvent, OpenedToken, Preview, RunSummary, TokenChoice } from '../src/job/protocol.ts';
import { openModule, type ModuleInPage } from './harness.ts';

let job: ModuleInPage;
beforeAll(async () => {
  job = await openModule('e2e/job-in-page.ts', ['workers/engine.worker.ts']);
});
afterAll(() => job?.close());

const call: ModuleInPage['call'] = (name, ...args) => job.call(name, ...args);

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

  it('ends without the address that its student came from, once it has been opened, and so does a new one', async () => {
    const folder = path.join(inject('root'), 'public/bundled/arithmetic');
    const asked: string[] = [];
    const server = createServer((request, response) => {
      asked.push(request.url!.slice(1));
      response.setHeader('access-control-allow-origin', '*');
      response.setHeader('access-control-allow-headers', 'range');
      readFile(path.join(folder, request.url!)).then(
        (bytes) => response.end(bytes),
        () => response.writeHead(404).end(),
      );
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const { port } = server.address() as AddressInfo;
    const from = await call<RunSummary>('createFrom', `http://127.0.0.1:${port}`);
    const paused = await call<JobEvent[]>('sit', from.id, 2);
    expect(paused.at(-1)).toEqual({ kind: 'paused', why: 'asked' });
    expect(asked).toContain('special_tokens_map.json'); // is not there: what is kept is that it was not
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
    const ended = await call<JobEvent[]>('sit', from.id);
    expect(ended.at(-1)).toMatchObject({ kind: 'done', report: { train: { steps: 4 } } });
    const another = await call<RunSummary>('createFrom', `http://127.0.0.1:${port}`);
    expect((await call<JobEvent[]>('sit', another.id)).at(-1)!.kind).toBe('done');
  });
});
