/** What the headless page asks of a teacher's server arrives there with the key, and nowhere else. */
import { createServer, type IncomingMessage, type Server as HttpServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { bridgeServer } from './bridge-server.ts';
import { serve, type Server } from './server.ts';

let teacher: HttpServer;
let studio: Server;
let heard: { url: string; method: string; headers: IncomingMessage['headers']; body: string }[];
let address: string;

beforeEach(async () => {
  heard = [];
  teacher = createServer((request, response) => {
    let body = '';
    request.on('data', (part) => (body += part));
    request.on('end', () => {
      heard.push({ url: request.url!, method: request.method!, headers: request.headers, body });
      response.writeHead(429, { 'Retry-After': '7', 'Content-Type': 'application/json' }).end('{"said":"ü"}');
    });
  });
  await new Promise<void>((resolve) => teacher.listen(0, '127.0.0.1', resolve));
  address = `http://127.0.0.1:${(teacher.address() as AddressInfo).port}`;
  const { route } = bridgeServer({
    token: 'token',
    start: { recipe: {} as never, recipeFile: 'r.json', resume: false, local: [] },
    recipeFolder: '.',
    outFolder: '.',
    teacher: { url: `${address}/api/v1`, key: 'sk-secret' },
    onEvent: () => undefined,
  });
  studio = await serve('.', { port: 0, host: '127.0.0.1', routes: [route] });
});
afterEach(async () => {
  await studio.close();
  teacher.closeAllConnections();
  await new Promise((resolve) => teacher.close(resolve));
});

const ask = (to: string, token = 'token'): Promise<Response> =>
  fetch(`${studio.origin}/__bridge/${token}/teacher?to=${encodeURIComponent(to)}`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json', Authorization: 'Bearer of-the-page' },
    body: '{"prompt":"é"}',
  });

describe('the door to a teacher', () => {
  it('sends on with the key, and gives back status, waiting time and body as they are', async () => {
    const answer = await ask(`${address}/api/v1/completions`);
    expect([answer.status, answer.headers.get('retry-after'), await answer.text()]).toEqual([429, '7', '{"said":"ü"}']);
    expect(heard).toMatchObject([{ url: '/api/v1/completions', method: 'POST', body: '{"prompt":"é"}' }]);
    expect(heard[0]!.headers.authorization).toBe('Bearer sk-secret');
  });

  it('knows what the server has beside its API', async () => {
    await ask(`${address}/api/tokenize`);
    expect(heard.map(({ url }) => url)).toEqual(['/api/tokenize']);
  });

  it('leads nowhere else, and to nobody without the token', async () => {
    for (const to of [
      'http://example.com/',
      `${address}/other`,
      `${address}/apixyz`,
      `${address}/api/../x`,
      'no address',
    ]) {
      expect((await ask(to)).status).toBe(403);
    }
    expect((await ask(`${address}/api/v1/completions`, 'guess')).status).not.toBe(429);
    expect(heard).toEqual([]);
  });

  it('says why nobody answers', async () => {
    teacher.closeAllConnections();
    await new Promise((resolve) => teacher.close(resolve));
    const answer = await ask(`${address}/api/v1/completions`);
    expect([answer.status, await answer.text()]).toEqual([502, 'ECONNREFUSED']);
    teacher.listen(0); // afterEach closes it
  });
});
