/** Where each kind of name in a recipe leads, and what is said where it leads nowhere. */
import { createServer, type Server } from 'node:http';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { readText } from '../formats/byte-source.ts';
import { broughtFiles } from './local-files.ts';
import { Sources } from './sources.ts';
import { MemoryShelf } from './testing.ts';

let server: Server;
let address: string;

const versionAt = (sha: string): string => JSON.stringify({ sha, siblings: [{ rfilename: 'config.json' }] });

const FILES: Record<string, string> = {
  '/bundled/arithmetic/config.json': 'bundled config',
  '/bundled/arithmetic/rows.jsonl': 'bundled rows',
  '/api/models/owner/model/revision/main?blobs=true': versionAt('c0ffee'),
  '/api/models/owner/model/revision/v1.0?blobs=true': versionAt('beef'),
  '/owner/model/resolve/c0ffee/config.json': 'hub config',
  '/owner/model/resolve/beef/config.json': 'hub config, v1.0',
  '/api/datasets/owner/rows': JSON.stringify({
    siblings: ['README.md', 'data/test.jsonl', 'data/train.jsonl'].map((rfilename) => ({ rfilename })),
  }),
  '/api/datasets/owner/many': JSON.stringify({ siblings: [{ rfilename: 'a.jsonl' }, { rfilename: 'b.jsonl' }] }),
  '/datasets/owner/rows/resolve/main/data/train.jsonl': 'hub rows',
  '/elsewhere/config.json': 'config at a URL',
};

/** Of requests for what is bundled: the ranges that they asked for. */
const ranges: (string | undefined)[] = [];

beforeAll(async () => {
  server = createServer((request, response) => {
    if (request.url!.startsWith('/bundled/')) ranges.push(request.headers.range);
    const body = FILES[request.url!];
    response.writeHead(body === undefined ? 404 : 200, { 'content-type': 'application/octet-stream' }).end(body);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  address = `http://127.0.0.1:${(server.address() as { port: number }).port}`;
});
afterAll(() => new Promise((resolve) => server.close(resolve)));

const sources = (brought: Record<string, Blob> = {}): Sources =>
  new Sources(
    { bundled: `${address}/bundled/`, hub: { huggingface: address, modelscope: address }, shelf: new MemoryShelf() },
    broughtFiles(brought),
    'recipe.json',
  );

async function config(value: string, revision?: string, brought?: Record<string, Blob>): Promise<string> {
  const folder = await sources(brought).model('student.model', value, revision);
  return readText((await folder.open('config.json'))!);
}

describe('sources', () => {
  it('finds models bundled, on the hub at a revision, at a URL, and brought', async () => {
    expect(await config('bundled:arithmetic')).toBe('bundled config');
    expect(await config('owner/model')).toBe('hub config');
    expect(await config('hub:owner/model')).toBe('hub config');
    expect(await config('owner/model', 'v1.0')).toBe('hub config, v1.0');
    expect(await config(`${address}/elsewhere`)).toBe('config at a URL');
    const brought = { './teacher/config.json': new Blob(['brought config']) };
    expect(await config('./teacher', undefined, brought)).toBe('brought config');
    expect(await config('teacher/', undefined, brought)).toBe('brought config');
  });

  it('asks for what is bundled whole, as a service worker can keep it', async () => {
    ranges.length = 0;
    await config('bundled:arithmetic');
    await sources().file('data.source', 'bundled:arithmetic/rows.jsonl');
    expect(ranges).toEqual([undefined, undefined]);
  });

  it('knows the commit of a model on the hub, and of no other', async () => {
    const brought = { 'owner/model/config.json': new Blob(['brought']) };
    expect(await sources().commit('hub:owner/model', 'v1.0')).toBe('beef');
    expect(await sources().commit('bundled:arithmetic', 'main')).toBeUndefined();
    expect(await sources(brought).commit('owner/model', 'main')).toBeUndefined();
  });

  it('prefers what was brought to what the hub has by that name', async () => {
    expect(await config('owner/model', 'main', { 'owner/model/config.json': new Blob(['mine']) })).toBe('mine');
  });

  it('takes a lone weights file as a folder with nothing else', async () => {
    const folder = await sources({ './model.gguf': new Blob(['GGUF']) }).model('student.model', './model.gguf');
    expect(await folder.list!()).toEqual(['model.gguf']);
    expect(await readText((await folder.open('model.gguf'))!)).toBe('GGUF');
    expect(await folder.open('config.json')).toBeUndefined();
  });

  it('finds rows bundled, brought, and of a data set on the hub', async () => {
    expect(await readText(await sources().file('data.source', 'bundled:arithmetic/rows.jsonl'))).toBe('bundled rows');
    expect(await readText(await sources().file('data.source', 'owner/rows'))).toBe('hub rows');
    const brought = sources({ './rows.jsonl': new Blob(['mine']) });
    expect(await readText(await brought.file('data.source', './rows.jsonl'))).toBe('mine');
  });

  it.each([
    ['./gone', 'recipe.json: student.model: there is no ./gone: a path relative to the recipe, a hub name'],
    ['bundled:../secret', 'recipe.json: student.model: there is no bundled:../secret'],
  ])('says where %s stands and what is allowed', async (value, words) => {
    await expect(sources().model('student.model', value)).rejects.toThrow(words);
  });

  it('says which file of a data set it cannot choose', async () => {
    await expect(sources().file('data.source', 'owner/many')).rejects.toThrow(
      'owner/many: it has 2 .jsonl files, none called train',
    );
    await expect(sources().file('data.source', 'owner/none')).rejects.toThrow('the server answered 404');
  });
});
