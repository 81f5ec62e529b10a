/** An exported folder, served as a site would, in transformers.js in the browser: on wasm and on WebGPU, no dtype named. */
import { createReadStream } from 'node:fs';
import { stat, rm } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import path from 'node:path';
import type { BrowserContext, Page } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest';
import { launchWithGpu } from '../src/cli/browser.ts';
import { expectGreedy } from './greedy.ts';
import { startCommand, temporaryFolder } from './harness.ts';

const TYPES: Record<string, string> = {
  '.js': 'text/javascript',
  '.mjs': 'text/javascript',
  '.wasm': 'application/wasm',
};

let folder: string;
let server: Server;
let context: BrowserContext;
let page: Page;

beforeAll(async () => {
  folder = await temporaryFolder('served');
  const root = inject('root');
  const bundled = path.join(root, 'public/bundled/arithmetic');
  const exported = startCommand([
    'export',
    bundled,
    '--out',
    path.join(folder, 'model'),
    '--onnx',
    'fp32,q8',
    '--safetensors',
  ]);
  const { code, stderr } = await exported.ended;
  expect(code, stderr).toBe(0);
  const roots: Record<string, string> = {
    models: folder,
    e2e: path.join(root, 'e2e'),
    ort: path.join(root, 'node_modules/onnxruntime-web/dist'),
    lib: path.join(root, 'node_modules/@huggingface/transformers/dist'),
  };
  server = createServer(async (request, response) => {
    const [, first = '', ...rest] = new URL(request.url!, 'http://localhost').pathname.split('/');
    const file = path.join(roots[first] ?? folder, ...rest);
    if (first === '') return response.setHeader('content-type', 'text/html').end('<!doctype html><title>model</title>');
    const there = await stat(file).catch(() => undefined);
    if (!there?.isFile()) return response.writeHead(404).end();
    const type = TYPES[path.extname(file)] ?? 'application/octet-stream';
    response.writeHead(200, { 'content-type': type, 'content-length': there.size });
    return createReadStream(file).pipe(response);
  });
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
  const origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const profile = path.join(folder, 'profile');
  ({ context, page } = await launchWithGpu({ browser: inject('browser'), profile, blank: `${origin}/` }));
  await page.goto(`${origin}/`);
}, 300_000);

afterAll(async () => {
  await context?.close();
  server?.close();
  await rm(folder, { recursive: true, force: true, maxRetries: 5 });
});

describe('transformers.js in the browser', () => {
  it.each(['wasm', 'webgpu'])('writes the engine’s greedy tokens on %s', async (device) => {
    const { ids, prompt, text } = await page.evaluate<{ ids: number[]; prompt: number; text: string }>(
      `import('/e2e/write-in-page.mjs').then((module) => module.write('${device}'))`,
    );
    expect(text).not.toBe('');
    await expectGreedy(path.join(folder, 'model'), ids, prompt);
  });
});
