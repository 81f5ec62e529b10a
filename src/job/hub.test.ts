/** Two hubs as local servers speak them: commits, hashes, tokens, faults. */
import { createServer, type Server } from 'node:http';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { readText, type FileSource } from '../formats/byte-source.ts';
import { checked, hubModel, hubName, hubRows, plainName, type HubSettings } from './hub.ts';

let server: Server;
let settings: HubSettings;
let requests: string[];
/** What the next requests are answered instead. */
let faults: number[];
/** `Authorization` of the requests for ModelScope's addresses. */
let toldModelScope: (string | undefined)[];

const sha256 = 'a'.repeat(64);
const FILES: Record<string, unknown> = {
  '/api/models/owner/tiny/revision/main?blobs=true': {
    sha: 'c0ffee',
    siblings: [{ rfilename: 'config.json' }, { rfilename: 'model.safetensors', lfs: { sha256 } }],
  },
  '/owner/tiny/resolve/c0ffee/config.json': '{"from":"the hub"}',
  '/owner/tiny/resolve/c0ffee/model.safetensors': 'weights',
  '/api/v1/models/owner/tiny/repo/files?Revision=master&Recursive=true': {
    Data: {
      Files: [
        { Path: 'onnx', Type: 'tree' },
        { Path: 'config.json', Type: 'blob', Sha256: sha256 },
      ],
    },
  },
  '/api/v1/models/owner/tiny/repo?Revision=master&FilePath=config.json': '{"from":"ModelScope"}',
  '/api/models/owner/gated/revision/main?blobs=true': { sha: 'dead', siblings: [{ rfilename: 'config.json' }] },
  '/owner/gated/resolve/dead/config.json': '{"from":"behind a gate"}',
};

beforeAll(async () => {
  server = createServer((request, response) => {
    requests.push(request.url!);
    if (request.url!.startsWith('/api/v1/')) toldModelScope.push(request.headers.authorization);
    const fault = faults.shift();
    if (fault === 0) return void response.destroy();
    if (fault !== undefined) return void response.writeHead(fault, { 'retry-after': '0' }).end();
    const gated = request.url!.includes('/gated/') && request.headers.authorization !== 'Bearer hf_secret';
    const body = FILES[request.url!];
    const why = (code: string, words: string) => ({ 'x-error-code': code, 'x-error-message': words });
    if (gated) return void response.writeHead(401, why('GatedRepo', 'Access is restricted.')).end();
    if (request.url!.includes('/nobody/')) {
      return void response.writeHead(401, why('RepoNotFound', 'Repository not found')).end();
    }
    if (request.url!.includes('/revision/gone')) {
      return void response.writeHead(404, why('RevisionNotFound', 'Invalid rev id: gone')).end();
    }
    if (body === undefined) return void response.writeHead(404).end();
    response.writeHead(200, { 'content-type': 'application/octet-stream' });
    response.end(typeof body === 'string' ? body : JSON.stringify(body));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = `http://127.0.0.1:${(server.address() as { port: number }).port}`;
  settings = { huggingface: address, modelscope: address };
});
afterAll(() => new Promise((resolve) => server.close(resolve)));
beforeEach(() => {
  requests = [];
  faults = [];
  toldModelScope = [];
});

const straight = (_name: string, upstream: FileSource): FileSource => upstream;
const open = (value: string, given: Partial<HubSettings> = {}): FileSource =>
  hubModel({ ...settings, ...given }, hubName(value)!, 'main', straight, { pausesMs: [1, 1] });
const config = async (folder: FileSource): Promise<string> => readText((await folder.open('config.json'))!);

describe('settings', () => {
  it('are taken without slashes and spaces around them, and refused where they are no address', () => {
    const typed = { huggingface: ' https://mirror.school/ ', modelscope: 'http://10.0.0.1:8080/ms//', token: ' ' };
    expect(checked(typed)).toEqual({ huggingface: 'https://mirror.school', modelscope: 'http://10.0.0.1:8080/ms' });
    expect(() => checked({ ...typed, modelscope: 'mirror' })).toThrow('hubs: modelscope: "mirror" is no address');
  });
});

describe('a name on a hub', () => {
  it.each([
    ['owner/tiny', { hub: 'huggingface', name: 'owner/tiny' }],
    ['gpt2', { hub: 'huggingface', name: 'gpt2' }],
    ['hub:owner/tiny', { hub: 'huggingface', name: 'owner/tiny' }],
    ['modelscope:owner/tiny', { hub: 'modelscope', name: 'owner/tiny' }],
    ['./tiny', undefined],
    ['bundled:tiny', undefined],
    ['a/b/c', undefined],
  ])('%s', (value, wanted) => expect(hubName(value)).toEqual(wanted));

  it('is written into cards and adapters as other tools read it', () => {
    expect(plainName('hub:owner/tiny')).toBe('owner/tiny');
    expect(plainName('modelscope:owner/tiny')).toBe('modelscope:owner/tiny');
    expect(plainName('./hub:tiny')).toBe('./hub:tiny');
  });

  it('stands for one commit, asked for once, and says which files there are and their hashes', async () => {
    const folder = open('owner/tiny');
    expect(await config(folder)).toBe('{"from":"the hub"}');
    expect(await folder.list!()).toEqual(['config.json', 'model.safetensors']);
    expect((await folder.open('model.safetensors'))!.sha256).toBe(sha256);
    expect(await folder.open('model.safetensors.index.json')).toBeUndefined();
    expect(requests).toEqual([
      '/api/models/owner/tiny/revision/main?blobs=true',
      '/owner/tiny/resolve/c0ffee/config.json',
      '/owner/tiny/resolve/c0ffee/model.safetensors',
    ]);
  });

  it('is found on ModelScope too', async () => {
    const folder = open('modelscope:owner/tiny');
    expect(await config(folder)).toBe('{"from":"ModelScope"}');
    expect(await folder.list!()).toEqual(['config.json']);
  });

  it('shows a token of Hugging Face to nobody else', async () => {
    await config(open('modelscope:owner/tiny', { token: 'hf_secret' }));
    expect(toldModelScope).toEqual([undefined, undefined]);
  });

  it('that nobody has, or no such version of it, is said in the hub’s words', async () => {
    await expect(config(open('nobody/model'))).rejects.toThrow(
      'nobody/model: the server answered 401 Unauthorized (Repository not found): a name that exists there, or an access token',
    );
    const gone = hubModel(settings, hubName('owner/tiny')!, 'gone', straight);
    await expect(config(gone)).rejects.toThrow('404 Not Found (Invalid rev id: gone): a name and a revision that');
  });

  it('is asked for three times where the hub stumbles', async () => {
    faults = [503, 0];
    expect(await config(open('owner/tiny'))).toBe('{"from":"the hub"}');
    faults = [429, 429, 429];
    await expect(config(open('owner/tiny'))).rejects.toThrow('could not be fetched in 3 attempts');
  });

  it('behind a gate needs a token', async () => {
    await expect(config(open('owner/gated'))).rejects.toThrow(
      'owner/gated: the server answered 401 Unauthorized (Access is restricted.): a public file, or an access token',
    );
    expect(await config(open('owner/gated', { token: 'hf_secret' }))).toBe('{"from":"behind a gate"}');
  });

  it('gives no rows on ModelScope, and says so', async () => {
    await expect(hubRows(settings, hubName('modelscope:owner/rows')!)).rejects.toThrow('not read from ModelScope');
  });

  it('that was kept is kept under its hub, name and revision', () => {
    const names: string[] = [];
    for (const value of ['owner/tiny', 'modelscope:owner/tiny']) {
      hubModel(settings, hubName(value)!, 'v1', (name, upstream) => (names.push(name), upstream));
    }
    expect(names).toEqual(['owner/tiny@v1', 'modelscope:owner/tiny@v1']);
  });
});
