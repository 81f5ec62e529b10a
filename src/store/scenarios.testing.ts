/**
 * What the store promises, as functions that run inside a real browser page (store.test.ts serves and calls them): a
 * stand-in for IndexedDB would promise what a browser does not. Each throws where a promise is broken.
 */
import fc from 'fast-check';
import { deleteDB, openDB, type IDBPDatabase } from 'idb';
import { MemorySource, readAll, readText, type ByteSource, type FileSource } from '../formats/byte-source.ts';
import { DownloadFault } from '../formats/download-fault.ts';
import { backUpRun, restoreRun } from './backup.ts';
import { Busy, Damaged, DiskFull, StoreClosed } from './faults.ts';
import { collectGarbage, listFiles, sha256 } from './files.ts';
import { withRunLock } from './locks.ts';
import { keptFolder, modelOwner, throughStore } from './models.ts';
import { runFolder, runKeep, runOwner } from './run-keep.ts';
import { Runs } from './runs.ts';
import { migrations, SCHEMA_VERSION, type Shelves } from './schema.ts';
import { getSetting, putSetting } from './settings.ts';
import { listKept } from './space.ts';
import { Store, type StoreOptions } from './store.ts';

let databases = 0;

const text = (bytes: Uint8Array | undefined): string | undefined => bytes && new TextDecoder().decode(bytes);
const bytesOf = (words: string): Uint8Array<ArrayBuffer> => new TextEncoder().encode(words);

function same(actual: unknown, expected: unknown, what: string): void {
  const [a, e] = [JSON.stringify(actual), JSON.stringify(expected)];
  if (a !== e) throw new Error(`${what}: ${a}, expected ${e}`);
}

async function rejects(promise: Promise<unknown>, kind: new (...args: never[]) => Error, what: string): Promise<void> {
  const error = await promise.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (!(error instanceof kind)) throw new Error(`${what}: ${String(error)}, expected ${kind.name}`);
}

/** A database of its own; chunks of 16 bytes, so that a few bytes already are several. */
async function withStore<T>(work: (store: Store, name: string) => Promise<T>, options: StoreOptions = {}): Promise<T> {
  const name = options.name ?? `test-${databases++}`;
  const store = await Store.open({ chunkBytes: 16, ...options, name });
  try {
    return await work(store, name);
  } finally {
    store.close();
    await deleteDB(name);
  }
}

const chunkKeys = (store: Store): Promise<string[]> => store.read(['chunks'], (tx) => tx.store.getAllKeys());

/** Commands against a Keep; after each, every key holds what a plain Map holds, and no chunk is there that none names. */
export async function keepsWhatAMapKeeps(): Promise<void> {
  const key = fc.constantFrom('a', 'b/1', 'b/2', 'c');
  const content = fc.uint8Array({ maxLength: 50 });
  const command = fc.oneof(
    fc.record({ put: fc.array(fc.tuple(key, content), { minLength: 1, maxLength: 3 }), durable: fc.boolean() }),
    fc.record({ remove: fc.array(key, { minLength: 1, maxLength: 2 }) }),
  );
  await fc.assert(
    fc.asyncProperty(fc.array(command, { maxLength: 8 }), (commands) =>
      withStore(async (store) => {
        const keep = runKeep(store, 'r', 'area');
        const model = new Map<string, number[]>();
        for (const step of commands) {
          if ('put' in step) {
            const entries = [...new Map(step.put)].map(([key, bytes]) => ({ key, bytes }));
            await keep.put(entries, { durable: step.durable });
            for (const { key, bytes } of entries) model.set(key, [...bytes]);
          } else {
            await keep.delete(step.remove);
            step.remove.forEach((key) => model.delete(key));
          }
          same(await keep.keys(''), [...model.keys()].sort(), 'keys');
          same(await keep.keys('b/'), [...model.keys()].filter((key) => key.startsWith('b/')).sort(), 'keys of b/');
          for (const key of ['a', 'b/1', 'b/2', 'c']) {
            const kept = await keep.get(key);
            same(kept && [...kept], model.get(key), key);
          }
          same(await collectGarbage(store, runOwner('r')), 0, 'garbage');
        }
      }),
    ),
    { numRuns: 30 },
  );
}

/**
 * A put is broken at its nth transaction, for every n, as a full disk breaks it: the person reads `DiskFull`, every key
 * holds the old bytes or every key the new, nothing reads damaged, and what the attempt left behind is collected.
 */
export async function brokenWritesChangeNothing(): Promise<void> {
  const files = fc.array(fc.uint8Array({ minLength: 1, maxLength: 60 }), { minLength: 1, maxLength: 4 });
  await fc.assert(
    fc.asyncProperty(files, files, fc.boolean(), async (first, second, durable) => {
      for (let n = 0; ; n++) {
        const reached = await withStore(async (healthy, name) => {
          const before = first.map((bytes, i) => ({ key: `k${i}`, bytes }));
          await runKeep(healthy, 'r', 'checkpoints').put(before, { durable });
          let writes = 0;
          const store = await Store.open({
            name,
            chunkBytes: 16,
            breakWrite: (at) => (
              (writes = at + 1),
              at === n ? new DOMException('full', 'QuotaExceededError') : undefined
            ),
          });
          const keep = runKeep(store, 'r', 'checkpoints');
          const after = second.map((bytes, i) => ({ key: `k${i}`, bytes }));
          const failure = await keep.put(after, { durable }).then(
            () => undefined,
            (error: unknown) => error,
          );
          if (writes > n && !(failure instanceof DiskFull)) throw new Error(`transaction ${n}: ${String(failure)}`);
          store.close();

          const keepAgain = runKeep(healthy, 'r', 'checkpoints');
          const now: Record<string, number[]> = {};
          for (const key of await keepAgain.keys('')) now[key] = [...(await keepAgain.get(key))!];
          const old = Object.fromEntries(before.map(({ key, bytes }) => [key, [...bytes]]));
          const fresh = { ...old, ...Object.fromEntries(after.map(({ key, bytes }) => [key, [...bytes]])) };
          const seen = JSON.stringify(now);
          if (seen !== JSON.stringify(old) && seen !== JSON.stringify(fresh))
            throw new Error(`half a put at ${n}: ${seen}`);
          if (failure === undefined) same(now, fresh, 'a put that succeeded');
          await collectGarbage(healthy, runOwner('r'));
          const named = new Set((await listFiles(healthy, runOwner('r'))).flatMap((record) => record.chunks));
          same((await chunkKeys(healthy)).length, named.size, 'chunks after collecting');
          return writes > n;
        });
        if (!reached) return;
      }
    }),
    { numRuns: 8 },
  );
}

/** The browser itself refuses (the test lowered the quota): the same error, and the store works on when there is room. */
export async function aFullDiskIsSaid(): Promise<void> {
  await withStore(
    async (store) => {
      const keep = runKeep(store, 'r', 'cache');
      const big = (seed: number): Uint8Array<ArrayBuffer> => {
        const bytes = new Uint8Array(4 << 20);
        for (let at = 0; at < bytes.length; at += 65536) crypto.getRandomValues(bytes.subarray(at, at + 65536));
        bytes[0] = seed;
        return bytes;
      };
      let kept = 0;
      await rejects(
        (async () => {
          for (; kept < 16; kept++) await keep.put([{ key: `block-${kept}`, bytes: big(kept) }]);
        })(),
        DiskFull,
        'writing 64 MiB',
      );
      same((await keep.keys('')).length, kept, 'blocks before the disk was full');
      for (const key of await keep.keys('')) same((await keep.get(key))!.length, 4 << 20, key);
      await keep.delete(await keep.keys(''));
      await collectGarbage(store, runOwner('r'));
    },
    { chunkBytes: 1 << 20 },
  );
}

/** Pieces of any length come back as one file, read at any place. */
export async function streamsBecomeFiles(): Promise<void> {
  await fc.assert(
    fc.asyncProperty(fc.array(fc.uint8Array({ maxLength: 40 }), { maxLength: 6 }), fc.nat(), fc.nat(), (pieces, a, b) =>
      withStore(async (store) => {
        const folder = runFolder(store, 'r', 'out');
        await folder.write('model/onnx/model.onnx', pieces);
        const all = pieces.flatMap((piece) => [...piece]);
        const [start, end] = [a % (all.length + 1), b % (all.length + 1)].sort((x, y) => x - y) as [number, number];
        const source = (await folder.open('model/onnx/model.onnx'))!;
        same([...(await source.read(start, end))], all.slice(start, end), `bytes ${start} to ${end}`);
        same([...(await readAll(source))], all, 'the whole');
        same(await folder.list(), ['model/onnx/model.onnx'], 'list');
        same(await collectGarbage(store, runOwner('r')), 0, 'garbage');
      }),
    ),
    { numRuns: 30 },
  );
}

export async function damageIsNoticed(): Promise<void> {
  await withStore(async (store) => {
    const keep = runKeep(store, 'r', 'checkpoints');
    await keep.put([{ key: 'state', bytes: bytesOf('forty bytes that lie in three small chunks') }]);
    const [key] = await chunkKeys(store);
    await store.write(['chunks'], 'relaxed', (tx) => tx.store.put(bytesOf('sixteen others..').buffer, key!));
    await rejects(keep.get('state'), Damaged, 'changed bytes');
    await store.write(['chunks'], 'relaxed', (tx) => tx.store.delete(key!));
    await rejects(keep.get('state'), Damaged, 'missing bytes');
  });
}

export async function runsAndTheirLines(): Promise<void> {
  await withStore(async (store) => {
    const runs = new Runs<{ state: string }, { step: number }>(store);
    await runs.put('one', '2026-01-01T00:00:00Z', { state: 'new' });
    await runs.put('two', '2026-01-02T00:00:00Z', { state: 'new' });
    await runs.put('one', '2026-01-01T00:00:00Z', { state: 'done' });
    same(
      (await runs.list()).map((run) => [run.id, run.facts.state]),
      [
        ['two', 'new'],
        ['one', 'done'],
      ],
      'list',
    );
    await runs.append('one', [{ step: 1 }, { step: 2 }]);
    await runs.append('one', [{ step: 3 }]);
    await runs.append('two', [{ step: 9 }]);
    await runs.trim('one', (line) => line.step <= 2);
    await runs.append('one', [{ step: 3 }]);
    same(await runs.lines('one'), [{ step: 1 }, { step: 2 }, { step: 3 }], 'lines');
    await runKeep(store, 'one', 'cache').put([{ key: 'x', bytes: bytesOf('some bytes') }]);
    await runKeep(store, 'two', 'cache').put([{ key: 'x', bytes: bytesOf('some bytes') }]);
    await runs.delete('one');
    same(await runs.get('one'), undefined, 'deleted run');
    same(await runs.lines('one'), [], 'its lines');
    same(await runs.lines('two'), [{ step: 9 }], 'lines of the other');
    same(text(await runKeep(store, 'two', 'cache').get('x')), 'some bytes', 'files of the other');
    same(
      (await listKept(store)).map(({ owner, bytes }) => [owner, bytes]),
      [['run:two', 10]],
      'what is kept',
    );
    await putSetting(store, 'language', 'zh-CN');
    same(await getSetting(store, 'language'), 'zh-CN', 'setting');
  });
}

/** Any run, backed up and restored beside itself and in an empty browser, is the same run. */
export async function backupsComeBack(): Promise<void> {
  const files = fc.dictionary(
    fc.constantFrom('inputs/rows.jsonl', 'checkpoints/8/state', 'checkpoints/8/é.json', 'cache/0', 'empty'),
    fc.uint8Array({ maxLength: 70 }),
  );
  await fc.assert(
    fc.asyncProperty(files, fc.array(fc.nat(99), { maxLength: 5 }), (files, steps) =>
      withStore(async (store) => {
        const runs = new Runs<{ id: string; recipe: { name: string } }, { step: number }>(store);
        const facts = { id: 'r', recipe: { name: 'try' } };
        await runs.put('r', '2026-01-01T00:00:00Z', facts);
        await runs.append(
          'r',
          steps.map((step) => ({ step })),
        );
        await runKeep(store, 'r', 'all').put(Object.entries(files).map(([key, bytes]) => ({ key, bytes })));
        const zip = new Uint8Array(await new Response(await backUpRun(store, 'r')).arrayBuffer());

        const restored = async (into: Store): Promise<string> => {
          const id = await restoreRun(into, new MemorySource('backup.zip', zip));
          const keep = runKeep(into, id, 'all');
          same((await keep.keys('')).length, Object.keys(files).length, 'files');
          for (const [key, bytes] of Object.entries(files)) same([...(await keep.get(key))!], [...bytes], key);
          const again = new Runs<typeof facts, { step: number }>(into);
          same((await again.get(id))!.facts, { ...facts, id }, 'facts');
          same(
            await again.lines(id),
            steps.map((step) => ({ step })),
            'lines',
          );
          return id;
        };
        if ((await restored(store)) === 'r') throw new Error('it was written over the run that is there');
        await withStore(async (empty) => same(await restored(empty), 'r', 'id'));
      }),
    ),
    { numRuns: 15 },
  );
}

/** A backup with changed, missing or cut bytes is refused in words, and nothing of it is kept. */
export async function brokenBackupsAreRefused(): Promise<void> {
  await withStore(async (store) => {
    const runs = new Runs<{ id: string }, never>(store);
    await runs.put('r', '2026-01-01T00:00:00Z', { id: 'r' });
    await runKeep(store, 'r', 'all').put([{ key: 'x', bytes: bytesOf('the quick brown fox jumps over the lazy dog') }]);
    const zip = new Uint8Array(await new Response(await backUpRun(store, 'r')).arrayBuffer());
    let refused = 0;
    await withStore(async (empty) => {
      const attempt = async (bytes: Uint8Array<ArrayBuffer>): Promise<void> => {
        const error = await restoreRun(empty, new MemorySource('b.zip', bytes)).then(
          (id) => new Runs(empty).delete(id).then(() => undefined),
          (reason: Error) => reason,
        );
        if (error === undefined) return;
        if (error.name !== 'InputError') throw error;
        refused++;
        same(
          [await chunkKeys(empty), await listKept(empty), await new Runs(empty).list()],
          [[], [], []],
          'what is left',
        );
      };
      for (let cut = 0; cut < zip.length; cut += 7) await attempt(zip.slice(0, cut));
      const cuts = refused;
      same(cuts, Math.ceil(zip.length / 7), 'cut backups refused');
      for (let at = 0; at < zip.length; at += 3) {
        const changed = zip.slice();
        changed[at]! ^= 0x15;
        await attempt(changed);
      }
      if (refused === cuts) throw new Error('no changed backup was refused');
    });
  });
}

/** A model is fetched once; a download that broke goes on; a damaged part is fetched again; offline it is all there. */
export async function modelsArriveOnce(): Promise<void> {
  await withStore(async (store) => {
    const bytes = bytesOf('a model of fifty bytes, more or less, give or take');
    const reads: [number, number][] = [];
    let online = true;
    const upstream: FileSource = {
      name: 'hub/model',
      async open(path) {
        if (!online) throw new Error('offline');
        if (path !== 'model.safetensors') return undefined;
        const memory = new MemorySource('model.safetensors', bytes);
        return {
          name: 'model.safetensors',
          size: bytes.length,
          async read(start, end) {
            if (!online) throw new Error('offline');
            reads.push([start, end]);
            return memory.read(start, end);
          },
        };
      },
    };
    const open = async (): Promise<FileSource> => throughStore(store, 'hub/model@main', upstream);
    const first = (await (await open()).open('model.safetensors'))!;
    same(text(await first.read(20, 24)), text(bytes.subarray(20, 24)), 'a range');
    same(reads, [[16, 32]], 'what a range costs');
    same(await keptFolder(store, 'hub/model@main').open('model.safetensors'), undefined, 'half a file');
    same((await listKept(store))[0]!.partial, true, 'half a file');

    const second = (await (await open()).open('model.safetensors'))!;
    same(await readText(second), text(bytes), 'the whole');
    same(reads.length, 4, 'parts fetched');
    online = false;
    same(await readText((await (await open()).open('model.safetensors'))!), text(bytes), 'offline');
    same(await readText((await keptFolder(store, 'hub/model@main').open('model.safetensors'))!), text(bytes), 'kept');
    same(await keptFolder(store, 'hub/model@main').list!(), ['model.safetensors'], 'list');
    same(await collectGarbage(store, modelOwner('hub/model@main')), 0, 'garbage');

    const [key] = await chunkKeys(store);
    await store.write(['chunks'], 'relaxed', (tx) => tx.store.put(new ArrayBuffer(16), key!));
    online = true;
    same([...(await readAll((await (await open()).open('model.safetensors'))!))], [...bytes], 'mended');
    same(reads.length, 5, 'one part fetched again');
    same(await (await open()).open('config.json'), undefined, 'no such file');
  });
}

/** A file that was not there is missing still when nobody answers, is listed nowhere, and is found once it is there. */
export async function absenceIsKept(): Promise<void> {
  await withStore(async (store) => {
    let online = true;
    const there = new Map<string, Uint8Array<ArrayBuffer>>([['config.json', bytesOf('{}')]]);
    const asked: string[] = [];
    const upstream: FileSource = {
      name: 'hub/model',
      async open(path) {
        asked.push(path);
        if (!online) throw new DownloadFault(path, 'nobody answers', 'a network');
        const bytes = there.get(path);
        return bytes && new MemorySource(path, bytes);
      },
    };
    const open = (): FileSource => throughStore(store, 'hub/absent@main', upstream);
    await readAll((await open().open('config.json'))!);
    for (const path of ['README.md', 'vocab.json']) same(await open().open(path), undefined, path);
    same(await keptFolder(store, 'hub/absent@main').list!(), ['config.json'], 'list');
    same(await keptFolder(store, 'hub/absent@main').open('README.md'), undefined, 'kept');
    same((await listKept(store))[0]!.files, 1, 'files counted');

    online = false;
    asked.length = 0;
    const folder = open();
    for (const path of ['README.md', 'vocab.json']) same(await folder.open(path), undefined, `${path}, offline`);
    same(asked, ['README.md'], 'asked for, offline');
    await rejects(open().open('merges.txt'), DownloadFault, 'a file that was never asked for');

    online = true;
    there.set('README.md', bytesOf('license: mit'));
    same(await readText((await open().open('README.md'))!), 'license: mit', 'it came');
    online = false;
    same(await readText((await open().open('README.md'))!), 'license: mit', 'and is kept');
  });
}

/** A folder of which every file holds these bytes, and what was read of them beyond those at hand. */
function toldOf(
  bytes: Uint8Array<ArrayBuffer>,
  more: Partial<ByteSource>,
): { upstream: FileSource; reads: [number, number][] } {
  const reads: [number, number][] = [];
  const open = async (path: string): Promise<ByteSource> => ({
    ...more,
    name: path,
    size: bytes.length,
    async read(start, end) {
      if (end > (more.at_hand ?? 0)) reads.push([start, end]);
      return bytes.slice(start, end);
    },
  });
  return { upstream: { name: 'hub/model', open }, reads };
}

/** Of a file of many parts the header is read from what came when it was opened, and no part is fetched for it. */
export async function headersCostNoParts(): Promise<void> {
  await withStore(async (store) => {
    const bytes = bytesOf('a header, and then the weights of a model that may be too large');
    const { upstream, reads } = toldOf(bytes, { at_hand: 12 });
    const file = (await throughStore(store, 'hub/large@main', upstream).open('model.safetensors'))!;
    same(text(await file.read(2, 8)), 'header', 'the header');
    same(reads, [], 'what it cost');
    same(text(await file.read(2, 20)), text(bytes.subarray(2, 20)), 'more than the header');
    same(
      reads,
      [
        [0, 16],
        [16, 32],
      ],
      'what that cost',
    );
  });
}

/** What a server without ranges gives on the way to a part is kept, so that going back costs no way a second time. */
export async function partsOnTheWayAreKept(): Promise<void> {
  await withStore(async (store) => {
    const bytes = bytesOf('a model of fifty bytes, more or less, give or take');
    const { upstream, reads } = toldOf(bytes, { in_order: true });
    const file = (await throughStore(store, 'hub/forward@main', upstream).open('model.safetensors'))!;
    same(text(await file.read(36, 40)), text(bytes.subarray(36, 40)), 'the third part');
    same(text(await file.read(0, 50)), text(bytes), 'the whole');
    const inOrder = [0, 16, 32, 48].map((start) => [start, Math.min(start + 16, bytes.length)]);
    same(reads, inOrder, 'parts, each once, in order');
    same((await listKept(store))[0]!.partial, false, 'whole');
  });
}

/** A file that its source states a hash of is held to it when its last part arrives; what arrived wrong is let go. */
export async function statedHashesHold(): Promise<void> {
  await withStore(async (store) => {
    const good = bytesOf('a model of fifty bytes, more or less, give or take');
    const stated = await sha256(good);
    let bytes = good.slice();
    bytes[20]! ^= 1;
    const upstream: FileSource = {
      name: 'hub/model',
      open: async (path) => ({
        name: path,
        size: good.length,
        sha256: stated,
        read: async (start, end) => bytes.slice(start, end),
      }),
    };
    const open = async () => (await throughStore(store, 'hub/stated@main', upstream).open('model.safetensors'))!;
    await rejects(readAll(await open()), DownloadFault, 'bytes that are not those stated');
    same(await keptFolder(store, 'hub/stated@main').open('model.safetensors'), undefined, 'kept all the same');
    bytes = good;
    same(text(await readAll(await open())), text(good), 'fetched again');
  });
}

/** From every version that ever was, with something in it, to this one. */
export async function olderDatabasesBecomeThisOne(): Promise<void> {
  for (let from = 1; from <= SCHEMA_VERSION; from++) {
    const name = `test-${databases++}`;
    const old = await openDB<Shelves>(name, from, {
      async upgrade(db, _from, _to, tx) {
        for (const migrate of migrations.slice(0, from)) await migrate(db, tx);
      },
    });
    await fillVersionOne(old);
    old.close();
    await withStore(
      async (store) => {
        same((await new Runs<{ note: string }, unknown>(store).get('r'))!.facts.note, 'kept', `run of version ${from}`);
        same(await new Runs(store).lines('r'), [{ step: 1 }], `lines of version ${from}`);
        same(text(await runKeep(store, 'r', 'a').get('x')), 'hello', `file of version ${from}`);
        same(await getSetting(store, 's'), 1, `setting of version ${from}`);
      },
      { name },
    );
  }
}

async function fillVersionOne(db: IDBPDatabase<Shelves>): Promise<void> {
  const key = 'run:r 2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824';
  await db.put('runs', { id: 'r', created: '2026-01-01T00:00:00Z', facts: { note: 'kept' } });
  await db.put('lines', { step: 1 }, ['r', 0]);
  await db.put('chunks', bytesOf('hello').buffer, key);
  const modified = '2026-01-01T00:00:00Z';
  await db.put('files', { owner: 'run:r', path: 'a/x', bytes: 5, chunk_bytes: 16, chunks: [key], modified });
  await db.put('settings', 1, 's');
}

/** A newer Stillroom in another tab asks for the database: this page lets go, and says so. */
export async function aNewerPageMayChangeTheDatabase(): Promise<void> {
  const name = `test-${databases++}`;
  let closed = false;
  const store = await Store.open({ name, onClosed: () => (closed = true) });
  const newer = await openDB(name, SCHEMA_VERSION + 1);
  same(closed, true, 'the old page let go');
  await rejects(putSetting(store, 'a', 1), StoreClosed, 'writing after that');

  // And from the other side: a page that holds on is named as what is in the way.
  newer.close();
  await deleteDB(name);
  const holder = await openDB(name, SCHEMA_VERSION - 1 || 1);
  if (SCHEMA_VERSION > 1) {
    let blocked = false;
    const waiting = Store.open({ name, onBlocked: () => ((blocked = true), holder.close()) });
    (await waiting).close();
    same(blocked, true, 'blocked was said');
  }
  holder.close();
  await deleteDB(name);
}

export async function oneWriterARun(): Promise<void> {
  await withRunLock('r', async () => {
    await rejects(
      withRunLock('r', async () => undefined, 0),
      Busy,
      'a second writer',
    );
    await withRunLock('other', async () => undefined, 0);
  });
  await withRunLock('r', async () => undefined, 0);
}

/** For the test that kills the browser: two keys that only ever change together, as fast as the disk goes. */
export async function writeForEver(): Promise<never> {
  const store = await Store.open({ name: 'killed', chunkBytes: 64 });
  const keep = runKeep(store, 'r', 'checkpoints');
  for (let n = 1; ; n++) {
    const bytes = new Uint8Array(200).fill(n % 251);
    await keep.put(
      [
        { key: 'tensors', bytes },
        { key: 'json', bytes: bytesOf(String(n)) },
      ],
      { durable: true },
    );
    document.title = String(n);
  }
}

/** What a browser that was killed has kept: the generation, the same in both. */
export async function readAfterKill(): Promise<number> {
  const store = await Store.open({ name: 'killed', chunkBytes: 64 });
  const keep = runKeep(store, 'r', 'checkpoints');
  const n = Number(text(await keep.get('json')));
  const bytes = (await keep.get('tensors'))!;
  if (bytes.length !== 200 || bytes.some((byte) => byte !== n % 251))
    throw new Error(`${n} beside tensors of ${bytes[0]}`);
  await collectGarbage(store, runOwner('r'));
  same((await chunkKeys(store)).length <= 5, true, 'garbage is gone');
  store.close();
  return n;
}
