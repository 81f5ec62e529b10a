/** A server's log probabilities in three formats against the logits they were made of; and every fault in one sentence. */
import { afterEach, describe, expect, it, vi } from 'vitest';
import { nodeFolder } from '../../cli/node-files.ts';
import { loadTokenizer, type Tokenizer } from '../../models/tokenizer.ts';
import { EndpointTeacher } from './endpoint-teacher.ts';
import { inOrder } from './in-order.ts';
import { send, testServer, type Mind, type Speaks, type TestServer } from './server.testing.ts';
import type { ServerOptions } from './server.ts';

const tokenizer = await loadTokenizer(nodeFolder('public/bundled/arithmetic'));
/** More than the tokenizer has: a vocabulary that is padded. */
const vocab_size = tokenizer.vocab_size + 3;
const row = Int32Array.from(tokenizer.encode('7 + 5 = 12', { add_special_tokens: false }));
const k = 4;

/** Logits that depend on the token and its place. */
const logitOf = (id: number, t: number, token: number): number => 3 * Math.sin(1 + token * 1.7 + id * 0.9 + t);
const mind: Mind = {
  model: 'teacher',
  tokenizer,
  vocab_size,
  async logits(ids) {
    return Float32Array.from(
      ids.flatMap((id, t) => Array.from({ length: vocab_size }, (_, token) => logitOf(id, t, token))),
    );
  },
};

let server: TestServer;
afterEach(async () => {
  vi.unstubAllGlobals();
  await server.close();
});

async function open(speaks: Speaks, how: { k?: number; key?: string; model?: string } & ServerOptions = {}) {
  server = await testServer(speaks, mind);
  return () =>
    EndpointTeacher.open(
      { url: server.url, model: how.model ?? 'teacher' },
      { headers: how.key ? { Authorization: `Bearer ${how.key}` } : {}, through: (url) => url },
      { k: how.k ?? k, tokenizer, rows: [row] },
      { pausesMs: [1, 1, 1], ...how },
    );
}

/** The k largest log p of a position in float64, tokens of the padding left out. */
function expected(t: number): { ids: number[]; logprobs: number[] } {
  const logits = Array.from({ length: vocab_size }, (_, token) => Math.fround(logitOf(row[t]!, t, token)));
  const logZ = Math.log(logits.reduce((sum, z) => sum + Math.exp(z), 0));
  const order = [...logits.keys()].sort((a, b) => logits[b]! - logits[a]!).slice(0, k);
  const known = order.filter((id) => id < tokenizer.vocab_size);
  return { ids: known, logprobs: known.map((id) => logits[id]! - logZ) };
}

describe('a server of log probabilities', () => {
  it.each(['vLLM', 'SGLang', 'llama.cpp'] as const)('%s says what its logits say', async (speaks) => {
    const teacher = await (await open(speaks))();
    expect(teacher.kind).toBe(speaks);
    const positions = [0, 2, row.length - 2];
    const said = await teacher.logprobs(row, positions);
    positions.forEach((t, i) => {
      const { ids, logprobs } = expected(t);
      const filled = [...ids, ...Array<number>(k - ids.length).fill(-1)];
      expect(Array.from(said.ids.subarray(i * k, (i + 1) * k))).toEqual(filled);
      logprobs.forEach((logprob, j) => expect(said.logprobs[i * k + j]).toBeCloseTo(logprob, 6));
    });
  });

  it('keeps no word of its padding', async () => {
    const teacher = await (await open('vLLM', { k: 20 }))();
    const said = await teacher.logprobs(row, [0, 1, 2]);
    expect(said.ids.includes(-1)).toBe(true);
    expect(Math.max(...said.ids)).toBeLessThan(tokenizer.vocab_size);
  });

  it('takes an address with its version, and sends no more headers than a key', async () => {
    server = await testServer('vLLM', mind);
    const access = { headers: { Authorization: 'Bearer secret' }, through: (url: string) => url };
    const asked = { k, tokenizer, rows: [row] };
    await EndpointTeacher.open({ url: `${server.url}/v1/`, model: 'teacher' }, access, asked);
    expect(new Set(server.heard.map(({ path }) => path))).toEqual(
      new Set(['/v1/models', '/v1/completions', '/tokenize']),
    );
    for (const { headers } of server.heard) expect(headers.authorization).toBe('Bearer secret');
  });
});

describe('a server that does not serve', () => {
  const refused = async (speaks: Speaks, how: Parameters<typeof open>[1], message: string): Promise<void> => {
    const opening = await open(speaks, how);
    const error = await opening().catch((fault: Error) => fault);
    expect((error as Error).message.replace(server.url, 'URL')).toBe(message);
  };

  it('has other models', () =>
    refused('vLLM', { model: 'pupil' }, 'URL: knows no model "pupil": a model that it has: "teacher"'));

  it('gives fewer than are asked for', () =>
    refused(
      'vLLM',
      { k: 21 },
      'URL: gives at most 20 log probabilities of a token where distill.k asks for 21: ' +
        'distill.k 20, or vLLM started with --max-logprobs 21',
    ));

  it('gives none of a given text', () =>
    refused(
      'Ollama',
      {},
      'URL: gives no log probabilities of a text that it is given: ' +
        'vLLM, SGLang or llama.cpp’s own server (that of llama-cpp-python, Ollama and hosted models give none)',
    ));

  it('gives none, and calls a question that it does not understand a fault of its own', async () => {
    const opening = await open('Ollama', { pausesMs: [] });
    server.instead = (path, response) => {
      if (path !== '/v1/completions') return false;
      // as llama-cpp-python 0.3.36 answers a prompt of token ids
      const message =
        "4 validation errors:\n  {'type': 'string_type', 'loc': ('body', 'prompt', 'str'), 'msg': 'Input should be a valid string'}";
      send(response, 500, { error: { message, type: 'internal_server_error', param: null, code: null } });
      return true;
    };
    await expect(opening()).rejects.toThrow('gives no log probabilities of a text that it is given');
  });

  it('wants a key, and says which it got', async () => {
    const opening = await open('vLLM', { key: 'sk-very-secret' });
    server.instead = (_path, response) => {
      send(response, 401, { error: { message: 'Incorrect API key provided: sk-very-secret.' } });
      return true;
    };
    const error = (await opening().catch((fault: Error) => fault)) as Error;
    expect(error.message.replace(server.url, 'URL')).toBe(
      'URL: answered 401 Unauthorized (Incorrect API key provided: ….): ' +
        'the key of this server, which is asked for in the page, and on the command line read from the environment',
    );
    expect(JSON.stringify(error)).not.toContain('sk-very-secret');
  });

  it('has another tokenizer', async () => {
    const other: Tokenizer = Object.create(tokenizer, {
      encode: { value: (text: string) => [...tokenizer.encode(text, { add_special_tokens: false })].reverse() },
    });
    server = await testServer('llama.cpp', { ...mind, tokenizer: other });
    const access = { headers: {}, through: (url: string) => url };
    const opening = EndpointTeacher.open({ url: server.url, model: 'teacher' }, access, { k, tokenizer, rows: [row] });
    await expect(opening).rejects.toThrow(
      /has another tokenizer than the student: token 1 of "7 \+ 5 = 12" is \d+ there and \d+ \("7"\) here/,
    );
  });

  it('has another tokenizer, and no way to ask for it but its words', async () => {
    const other: Tokenizer = Object.create(tokenizer, {
      decode: { value: (ids: number[]) => tokenizer.decode(ids.map((id) => (id + 1) % tokenizer.vocab_size)) },
    });
    server = await testServer('vLLM', { ...mind, tokenizer: other });
    server.instead = (path, response) => path === '/tokenize' && (send(response, 404, { detail: 'Not Found' }), true);
    const access = { headers: {}, through: (url: string) => url };
    const asked = { k, tokenizer, rows: [row] };
    const named = { url: server.url, model: 'teacher' };
    await expect(EndpointTeacher.open(named, access, asked)).rejects.toThrow(
      /has another tokenizer than the student: token \d+ is ".*" there and ".*" here/,
    );
    await server.close();
    server = await testServer('vLLM', mind);
    server.instead = (path, response) => path === '/tokenize' && (send(response, 404, { detail: 'Not Found' }), true);
    await EndpointTeacher.open({ url: server.url, model: 'teacher' }, access, asked);
  });

  it('is a page', async () => {
    const opening = await open('vLLM');
    server.instead = (_path, response) => {
      response.writeHead(200, { 'Content-Type': 'text/html' }).end('<!doctype html>');
      return true;
    };
    await expect(opening()).rejects.toThrow('answers with a web page: the address of the server’s API, with its port');
  });

  it('is not there', async () => {
    const opening = await open('vLLM');
    await server.close();
    await expect(opening()).rejects.toThrow(
      `${server.url}: can’t be reached (ECONNREFUSED), 4 times: a server that is running, at this address and port`,
    );
    server = await testServer('vLLM', mind);
  });

  it('is not there, or keeps the page out (CORS): a browser says of both the same', async () => {
    const opening = await open('vLLM', { fetch: () => Promise.reject(new TypeError('Failed to fetch')) });
    vi.stubGlobal('location', { origin: 'http://localhost:4173', protocol: 'http:' });
    await expect(opening()).rejects.toThrow(
      `${server.url}: can’t be reached (Failed to fetch), 4 times: a server that is running, at this address and port, ` +
        'and that allows pages of http://localhost:4173 ' +
        '(CORS; vLLM: --allowed-origins, llama.cpp: --cors-origins, Ollama: OLLAMA_ORIGINS)',
    );
  });

  it('is asked for on this machine from an https page in the words that Chrome wants', async () => {
    const said: unknown[] = [];
    const opening = await open('vLLM', {
      fetch: (url, init) => {
        said.push((init as { targetAddressSpace?: string }).targetAddressSpace);
        return fetch(url, init);
      },
    });
    vi.stubGlobal('location', { origin: 'https://studio.example', protocol: 'https:' });
    await opening();
    expect(new Set(said)).toEqual(new Set(['loopback']));
  });
});

describe('a server that falters', () => {
  /** Does so the first `times` times that it is asked for log probabilities, once it is opened. */
  const faltering = async (
    times: number,
    how: (response: Parameters<TestServer['instead']>[1]) => void,
    options: ServerOptions = {},
  ): Promise<() => Promise<Int32Array>> => {
    const teacher = await (await open('vLLM', options))();
    let left = times;
    server.instead = (_path, response) => {
      if (left-- <= 0) return false;
      how(response);
      return true;
    };
    return async () => (await teacher.logprobs(row, [0])).ids;
  };
  const right = expected(0).ids[0];

  it.each([
    ['fails three times', (response) => send(response, 500, { error: { message: 'CUDA error' } })],
    ['cuts the connection', (response) => void response.destroy()],
    ['cuts its answer', (response) => void response.writeHead(200, { 'Content-Length': 99 }).write('{"cho')],
    ['stammers', (response) => void response.writeHead(200).end('{"choices": [')],
  ] satisfies [string, (response: Parameters<TestServer['instead']>[1]) => void][])('%s', async (what, how) => {
    const cut = what === 'cuts its answer';
    const ids = await faltering(3, (response) => {
      how(response);
      if (cut) setTimeout(() => response.destroy(), 20);
    });
    expect((await ids())[0]).toBe(right);
    await server.close();
    const again = await faltering(4, (response) => {
      how(response);
      if (cut) setTimeout(() => response.destroy(), 20);
    });
    await expect(again()).rejects.toThrow(/, 4 times: /);
  });

  it('asks to be left alone for a second', async () => {
    const started = Date.now();
    const wait = (response: Parameters<TestServer['instead']>[1]): void =>
      send(response, 429, { error: { message: 'Too many requests' } }, { 'Retry-After': '1' });
    const ids = await faltering(1, wait);
    expect((await ids())[0]).toBe(right);
    expect(Date.now() - started).toBeGreaterThan(950);
  });

  it('is left at once by who has had enough', async () => {
    const underWay = new AbortController();
    const ids = await faltering(1, (response) => void response.writeHead(200).write('{'), { signal: underWay.signal });
    setTimeout(() => underWay.abort(new Error('enough')), 20);
    await expect(ids()).rejects.toThrow('enough');
  });
});

describe('several requests at a time', () => {
  it('come in order, as many at once as are allowed, and what came before a fault is there', async () => {
    server = await testServer('vLLM', mind); // afterEach closes one
    let [under, most, aborted] = [0, 0, false];
    const ask = async (n: number): Promise<number> => {
      most = Math.max(most, ++under);
      await new Promise((resolve) => setTimeout(resolve, 10 - n));
      under--;
      if (n === 5) throw new Error('five');
      return n;
    };
    const came: number[] = [];
    const all = (async () => {
      for await (const n of inOrder([0, 1, 2, 3, 4, 5, 6, 7, 8], 3, ask, () => (aborted = true))) came.push(n);
    })();
    await expect(all).rejects.toThrow('five');
    expect(came).toEqual([0, 1, 2, 3, 4]);
    expect([most, aborted]).toEqual([3, true]);
  });
});
