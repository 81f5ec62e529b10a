/** The command line's half of a headless run: files to and fro, and going on after any death of either process. */
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { build } from 'vite';
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest';
import { temporaryFolder } from './harness.ts';

let folder: string;
let page: string;

beforeAll(async () => {
  folder = await temporaryFolder('run');
  page = path.join(folder, 'page');
  await build({
    root: path.join(inject('root'), 'e2e/run-fixture/page'),
    configFile: false,
    logLevel: 'error',
    build: { outDir: page, target: 'es2023', modulePreload: { polyfill: false } },
  });
  await mkdir(path.join(folder, 'model'));
  await writeFile(path.join(folder, 'model/config.json'), '{"model_type":"llama"}');
  await writeFile(path.join(folder, 'rows.jsonl'), '{"question":"1+1","answer":"2"}\n');
});
afterAll(() => rm(folder, { recursive: true, force: true, maxRetries: 5 }));

async function recipe(name: string, more: object = {}): Promise<string> {
  const file = path.join(folder, `${name}.json`);
  const json = {
    name,
    student: { model: './model' },
    teacher: { kind: 'none' },
    data: { source: './rows.jsonl' },
    ...more,
  };
  await writeFile(file, JSON.stringify(json));
  return file;
}

function start(...args: string[]) {
  const script = path.join(inject('root'), 'e2e/run-fixture/run.mjs');
  const child = spawn(process.execPath, [
    script,
    inject('cli'),
    page,
    JSON.stringify(inject('browser')),
    'run',
    ...args,
  ]);
  let stderr = '';
  const listeners = new Set<() => void>();
  child.stderr.on('data', (data) => {
    stderr += data;
    for (const listener of listeners) listener();
  });
  const ended = new Promise<{ code: number | null; stderr: string }>((resolve) => {
    child.on('close', (code) => resolve({ code, stderr }));
  });
  const said = (words: string) =>
    new Promise<void>((resolve) => {
      const look = () => stderr.includes(words) && resolve();
      listeners.add(look);
      look();
    });
  return { child, ended, said };
}

async function steps(out: string): Promise<number[]> {
  const text = await readFile(path.join(out, 'metrics.jsonl'), 'utf8');
  return text
    .trimEnd()
    .split('\n')
    .map((line) => (JSON.parse(line) as { step: number }).step);
}

const counted = Array.from({ length: 40 }, (_, index) => index + 1);

describe('run', () => {
  it('hands the recipe and its files to the page and what the page makes to the folder', async () => {
    const out = path.join(folder, 'out-whole');
    const { code, stderr } = await start(await recipe('whole'), '--out', out).ended;
    expect(stderr).toContain('40/40 steps');
    expect(code).toBe(0);
    expect(await steps(out)).toEqual(counted);
    expect(JSON.parse(await readFile(path.join(out, 'report.json'), 'utf8'))).toEqual({
      rows: '{"question":"1+1","answer":"2"}\n',
      config: '{"model_type":"llama"}',
      none: true,
      names: ['config.json'],
    });
    const long = await readFile(path.join(out, 'model/onnx/model.onnx'));
    expect(long.length).toBe((8 << 20) + 12345);
    expect(long.every((value, index) => value === index % 251)).toBe(true);
    // What the browser kept is gone, and nothing half-written lies about.
    expect(existsSync(path.join(out, '.stillroom/profile'))).toBe(false);
    const left = await readdir(out, { recursive: true });
    expect(left.filter((name) => name.endsWith('.part'))).toEqual([]);

    const again = await start(await recipe('whole'), '--out', out).ended;
    expect(again).toMatchObject({ code: 2 });
    expect(again.stderr).toContain('holds a run already');
  });

  it('goes on after the command line was killed, though the browser lives on with the profile', async () => {
    const out = path.join(folder, 'out-killed');
    const file = await recipe('killed');
    const first = start(file, '--out', out);
    await first.said('from step 1\n');
    await new Promise((resolve) => setTimeout(resolve, 400));
    first.child.kill('SIGKILL');
    await first.ended;
    const { code, stderr } = await start('--out', out, '--resume').ended;
    expect(code).toBe(0);
    expect(Number(/from step (\d+)/.exec(stderr)?.[1])).toBeGreaterThan(1);
    // A step that was kept but not told when death came is not told again: at most one is missing, none comes twice.
    const told = await steps(out);
    expect(new Set(told).size).toBe(told.length);
    expect(counted.filter((step) => !told.includes(step)).length).toBeLessThanOrEqual(1);
  });

  // Only Linux lists its processes as files.
  it.runIf(process.platform === 'linux')('says so when the browser dies, and goes on', async () => {
    const out = path.join(folder, 'out-dead-browser');
    const file = await recipe('dies');
    const first = start(file, '--out', out);
    await first.said('from step 1\n');
    await expect.poll(() => steps(out).catch(() => []), { timeout: 20_000 }).toHaveLength(5);
    for (const pid of await browsersOf(path.join(out, '.stillroom/profile'))) process.kill(pid, 'SIGKILL');
    const died = await first.ended;
    expect(died.code).toBe(1);
    expect(died.stderr).toMatch(/the (browser died|browser closed the page|page crashed)/);
    expect(died.stderr).toContain('--resume');
    const { code } = await start(file, '--out', out, '--resume').ended;
    expect(code).toBe(0);
    expect(await steps(out)).toEqual(counted);
  });

  it('leaves nothing of bad input', async () => {
    const out = path.join(folder, 'out-bad');
    const rows = await start(await recipe('bad rows'), '--out', out).ended;
    expect(rows).toMatchObject({ code: 2 });
    expect(rows.stderr).toContain('rows.jsonl: line 2: is cut short: a JSON object a line\n');
    expect(existsSync(out)).toBe(false);

    const gone = await start(await recipe('gone', { data: { source: './no-rows.jsonl' } }), '--out', out).ended;
    expect(gone.code).toBe(2);
    expect(gone.stderr).toMatch(/gone\.json: data\.source: there is no .*no-rows\.jsonl: /);
    expect(existsSync(out)).toBe(false);

    const misspelt = await start(await recipe('misspelt', { distil: {} }), '--out', out).ended;
    expect(misspelt.code).toBe(2);
    expect(misspelt.stderr).toMatch(/misspelt\.json: distil: .*distill/);
    expect(existsSync(out)).toBe(false);
  });
});

/** The main process of the browser with this profile. */
async function browsersOf(profile: string): Promise<number[]> {
  const pids: number[] = [];
  for (const name of await readdir('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    const args = (await readFile(`/proc/${name}/cmdline`, 'utf8').catch(() => '')).split('\0');
    if (args.includes(`--user-data-dir=${profile}`) && !args.some((arg) => arg.startsWith('--type=')))
      pids.push(Number(name));
  }
  return pids;
}
