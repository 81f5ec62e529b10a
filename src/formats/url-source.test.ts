import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { readAll } from './byte-source.ts';
import { blobFile, blobFolder } from './blob-source.ts';
import { DownloadFault } from './download-fault.ts';
import { openUrl, urlFolder } from './url-source.ts';

const content = Uint8Array.from({ length: 300_000 }, (_, i) => (i * 7919) >>> 5);
let server: Server;
let base: string;
let requests: string[];
/** The first answers a request gets before the good one. */
let failures: number[];
/** After so many bytes of a body the connection breaks. */
let breaksAfter: number;
/** What a server without ranges says that the file has. */
let length: number;
/** When whom who comes too often may come again. */
let retryAfter: string | undefined;

function serveRange(request: IncomingMessage, response: ServerResponse, hideTotal: boolean): void {
  const [, from, to] = /bytes=(\d+)-(\d+)/.exec(request.headers.range ?? '') ?? [];
  if (from === undefined) {
    response.writeHead(200, { 'content-length': content.length });
    return void response.end(request.method === 'HEAD' ? undefined : content);
  }
  const end = Math.min(Number(to) + 1, content.length);
  response.writeHead(206, hideTotal ? {} : { 'content-range': `bytes ${from}-${end - 1}/${content.length}` });
  const body = content.subarray(Number(from), end);
  if (body.length <= breaksAfter) return void response.end(body);
  response.write(body.subarray(0, breaksAfter), () => response.destroy());
}

/** As Python's http.server, which serves no ranges. */
function serveForward(response: ServerResponse): void {
  response.writeHead(200, { 'content-length': length });
  if (content.length <= breaksAfter) return void response.end(content);
  response.write(content.subarray(0, breaksAfter), () => response.destroy());
}

beforeEach(async () => {
  length = content.length;
  requests = [];
  failures = [];
  breaksAfter = Infinity;
  retryAfter = undefined;
  server = createServer((request, response) => {
    requests.push(`${request.method} ${request.url} ${request.headers.range ?? ''}`.trim());
    const failure = failures.shift();
    if (failure === 0) return void response.destroy();
    if (failure !== undefined) {
      return void response.writeHead(failure, retryAfter === undefined ? {} : { 'retry-after': retryAfter }).end();
    }
    if (request.url === '/weights') return serveRange(request, response, false);
    if (request.url === '/hidden') return serveRange(request, response, true);
    if (request.url === '/whole') return void response.writeHead(200).end(content);
    if (request.url!.startsWith('/forward')) return serveForward(response);
    if (request.url === '/a%20b/c%23') return void response.writeHead(200).end('small');
    if (request.url === '/page') return void response.writeHead(200, { 'content-type': 'text/html' }).end('<html>');
    response.writeHead(404).end('not here');
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  base = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
});
afterEach(() => new Promise((resolve) => server.close(resolve)));

const quick = { pausesMs: [1, 1] };

describe('a URL', () => {
  test('gives its size and any range; the first bytes cost one request', async () => {
    const source = (await openUrl(`${base}/weights`, quick))!;
    expect(source.size).toBe(content.length);
    expect(await source.read(3, 1000)).toEqual(content.slice(3, 1000));
    expect(requests).toEqual(['GET /weights bytes=0-65535']);
    expect(await source.read(200_000, 300_000)).toEqual(content.slice(200_000));
    expect(requests[1]).toBe('GET /weights bytes=200000-299999');
    await expect(source.read(0, 300_001)).rejects.toThrow(RangeError);
  });

  test('is read whole where the server has no ranges, and sized by HEAD where it hides Content-Range', async () => {
    let counted = 0;
    const whole = (await openUrl(`${base}/whole`, { ...quick, onBytes: (n) => (counted += n) }))!;
    expect(await readAll(whole)).toEqual(content);
    expect(counted).toBe(content.length);
    expect(requests.length).toBe(1);
    expect((await openUrl(`${base}/hidden`, quick))!.size).toBe(content.length);
  });

  describe('of a large file, where the server has no ranges', () => {
    const large = { ...quick, wholeUpTo: 200_000 };

    test('is read forward in one request, and again from its beginning where a read goes back', async () => {
      let counted = 0;
      const source = (await openUrl(`${base}/forward`, { ...large, onBytes: (n) => (counted += n) }))!;
      expect([source.size, source.at_hand, source.in_order]).toEqual([300_000, 65_536, true]);
      expect(requests.length).toBe(2); // one that would have been whole, let go of
      expect(await source.read(10, 65_536)).toEqual(content.slice(10, 65_536));
      // back by a few bytes, which are at hand
      expect(await source.read(65_000, 100_000)).toEqual(content.slice(65_000, 100_000));
      expect(await source.read(100_000, 100_001)).toEqual(content.slice(100_000, 100_001));
      expect(await source.read(250_000, 300_000)).toEqual(content.slice(250_000));
      expect(requests.length).toBe(2);
      expect(counted).toBe(content.length);
      expect(await source.read(70_000, 80_000)).toEqual(content.slice(70_000, 80_000));
      expect(requests.length).toBe(3);
      await expect(source.read(0, 300_001)).rejects.toThrow(RangeError);
    });

    test('answers several who ask at once, and several files at once', async () => {
      const sources = await Promise.all(
        Array.from({ length: 7 }, async (_, i) => (await openUrl(`${base}/forward${i}`, large))!),
      );
      for (const [start, end] of [
        [70_000, 90_000],
        [90_000, 200_000],
        [120_000, 300_000],
      ] as const) {
        const read = await Promise.all(sources.flatMap((source) => [source.read(start, end), source.read(0, 9)]));
        for (const [i, bytes] of read.entries()) {
          const wanted = i % 2 === 0 ? content.subarray(start, end) : content.subarray(0, 9);
          expect(Buffer.compare(bytes, wanted), `file ${i >> 1}, ${start} to ${end}`).toBe(0);
        }
      }
    });

    test('goes on where the connection broke, is given up where nothing comes, and says that it changed', async () => {
      breaksAfter = 150_000;
      const source = (await openUrl(`${base}/forward`, large))!;
      const read = source.read(100_000, 290_000);
      setTimeout(() => (breaksAfter = Infinity), 5);
      expect(await read).toEqual(content.slice(100_000, 290_000));
      breaksAfter = 1000;
      await expect(source.read(100_000, 290_000)).rejects.toBeInstanceOf(DownloadFault);
      length = 299_999;
      await expect(source.read(100_000, 290_000)).rejects.toThrow('the file changed while it was read');
    });
  });

  test('is tried three times', async () => {
    failures = [503, 0];
    const source = (await openUrl(`${base}/weights`, quick))!;
    failures = [0, 429];
    expect(await source.read(100_000, 100_010)).toEqual(content.slice(100_000, 100_010));
    failures = [500, 500, 500];
    const error = await source.read(100_000, 100_010).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(DownloadFault);
    expect((error as Error).message).toContain('could not be fetched in 3 attempts (the server answered 500');
  });

  test('goes on behind the bytes that came where the connection breaks, however often', async () => {
    const source = (await openUrl(`${base}/weights`, quick))!;
    requests = [];
    breaksAfter = 40_000;
    expect(await source.read(100_000, 300_000)).toEqual(content.slice(100_000));
    expect(requests[1]).toMatch(/ bytes=1\d{5}-299999$/);
    expect(requests.length).toBeGreaterThanOrEqual(5);
    breaksAfter = 0;
    await expect(source.read(100_000, 300_000)).rejects.toBeInstanceOf(DownloadFault);
  });

  test('waits as long as the server asks, in seconds or until a date', async () => {
    const source = (await openUrl(`${base}/weights`, quick))!;
    // A date is of whole seconds: two from now are more than one.
    for (const asked of [() => '1', () => new Date(Date.now() + 2000).toUTCString()]) {
      retryAfter = asked();
      failures = [429];
      const before = Date.now();
      await source.read(100_000, 100_010);
      expect(Date.now() - before).toBeGreaterThan(900);
    }
  });

  test('absent is undefined; forbidden is said at once', async () => {
    const folder = urlFolder(base, quick, 'hub/model');
    expect(await folder.open('config.json')).toBeUndefined();
    expect(await folder.open('page')).toBeUndefined();
    expect((await folder.open('a b/c#'))!.name).toBe('hub/model/a b/c#');
    failures = [403];
    requests = [];
    await expect(folder.open('weights')).rejects.toThrow('hub/model/weights: the server answered 403');
    expect(requests.length).toBe(1);
  });

  test('stops when told to', async () => {
    const stop = new AbortController();
    stop.abort();
    await expect(openUrl(`${base}/weights`, { ...quick, signal: stop.signal })).rejects.toThrow('abort');
  });
});

test('dropped files: the folder around them is taken off, and only where it is around all', async () => {
  const blob = new Blob([content]);
  const one = blobFolder(
    'tiny',
    ['tiny/config.json', 'tiny/onnx/model.onnx'].map((path) => ({ path, blob })),
  );
  expect(await one.list!()).toEqual(['config.json', 'onnx/model.onnx']);
  const file = (await one.open('onnx/model.onnx'))!;
  expect(file.name).toBe('tiny/onnx/model.onnx');
  expect(await file.read(5, 9)).toEqual(content.slice(5, 9));
  expect(await one.open('absent')).toBeUndefined();
  const two = blobFolder(
    'files',
    ['/a/x', '/b/y', 'z'].map((path) => ({ path, blob })),
  );
  expect(await two.list!()).toEqual(['a/x', 'b/y', 'z']);
});

test('a picked file that changed since is said so', async () => {
  const gone = { size: 3, slice: () => ({ arrayBuffer: () => Promise.reject(new Error('NotReadableError')) }) };
  await expect(blobFile(gone as unknown as Blob, 'rows.jsonl').read(0, 3)).rejects.toThrow(
    'rows.jsonl: it can no longer be read (NotReadableError): the file as it was picked',
  );
});
