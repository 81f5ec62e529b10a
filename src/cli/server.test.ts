/** The server gives the page's files with their headers, ranges of them, and nothing outside its folder. */
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { request } from 'node:http';
import { tmpdir } from 'node:os';
import path from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { fileInside, parseRange, serve, type Server } from './server.ts';

let folder: string;
let server: Server;

beforeAll(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'stillroom-server-'));
  await mkdir(path.join(folder, 'page/assets'), { recursive: true });
  await writeFile(path.join(folder, 'page/index.html'), '<!doctype html>');
  await writeFile(path.join(folder, 'page/assets/index-abc.js'), '0123456789');
  await writeFile(path.join(folder, 'secret'), 'secret');
  server = await serve(path.join(folder, 'page'), { port: 0, host: '127.0.0.1' });
});
afterAll(async () => {
  await server.close();
  await rm(folder, { recursive: true, force: true });
});

/** With the address as it stands: fetch would tidy the dots away. */
function get(address: string, headers: Record<string, string> = {}) {
  return new Promise<{ status: number; headers: Record<string, unknown>; body: string }>((resolve, reject) => {
    const sent = request({ host: '127.0.0.1', port: server.port, path: address, headers }, (response) => {
      let body = '';
      response.on('data', (data) => (body += data));
      response.on('end', () => resolve({ status: response.statusCode!, headers: response.headers, body }));
    });
    sent.on('error', reject);
    sent.end();
  });
}

describe('serve', () => {
  it('gives the page isolated and under its policy, asked for anew each time', async () => {
    const { status, headers } = await get('/');
    expect(status).toBe(200);
    expect(headers).toMatchObject({
      'content-type': 'text/html; charset=utf-8',
      'cache-control': 'no-cache',
      'cross-origin-opener-policy': 'same-origin',
      'cross-origin-embedder-policy': 'require-corp',
    });
    expect(headers['content-security-policy']).toContain("script-src 'self' 'wasm-unsafe-eval'");
    expect((await get('/', { 'if-none-match': String(headers.etag) })).status).toBe(304);
  });

  it('refuses what is no address, and goes on', async () => {
    expect((await get('//')).status).toBe(400);
    expect((await get('/')).status).toBe(200);
  });

  it('gives hashed files for ever, and ranges of them', async () => {
    const { headers } = await get('/assets/index-abc.js');
    expect(headers['cache-control']).toContain('immutable');
    const part = await get('/assets/index-abc.js', { range: 'bytes=2-4' });
    expect(part).toMatchObject({ status: 206, body: '234', headers: { 'content-range': 'bytes 2-4/10' } });
    expect((await get('/assets/index-abc.js', { range: 'bytes=10-' })).status).toBe(416);
  });

  it.each(['/../secret', '/%2e%2e/secret', '/assets/..%2f..%2fsecret', '/%00', '/%ff', '/nothing'])(
    'has no %s',
    async (address) => expect(await get(address)).toMatchObject({ status: 404 }),
  );

  it('never leads out of its folder', () => {
    const piece = fc.constantFrom('..', '.', '%2e%2e', '/', '%2f', '\\', 'a', '');
    fc.assert(
      fc.property(fc.array(piece), (pieces) => {
        const file = fileInside('/srv/page', `/${pieces.join('')}`);
        expect(file === undefined || file === '/srv/page' || file.startsWith('/srv/page/')).toBe(true);
      }),
    );
  });
});

it('reads ranges as RFC 9110 has them', () => {
  expect(parseRange('bytes=0-0', 10)).toEqual({ start: 0, end: 1 });
  expect(parseRange('bytes=5-', 10)).toEqual({ start: 5, end: 10 });
  expect(parseRange('bytes=-3', 10)).toEqual({ start: 7, end: 10 });
  expect(parseRange('bytes=-30', 10)).toEqual({ start: 0, end: 10 });
  expect(parseRange('bytes=0-99', 10)).toEqual({ start: 0, end: 10 });
  expect(parseRange('bytes=10-12', 10)).toBe('none');
  expect(parseRange('bytes=4-2', 10)).toBe('none');
  expect(parseRange('bytes=0-', 0)).toBe('none');
  expect(parseRange('rows=0-1', 10)).toBeUndefined();
  expect(parseRange(undefined, 10)).toBeUndefined();
});
