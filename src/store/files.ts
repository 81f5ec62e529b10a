/**
 * Kept files: chunks first, the manifest last. A file is there exactly when its manifest is, and a manifest names only
 * chunks that lie on the disk; what a crash leaves behind between the two is named by nothing, and collected.
 */
import type { ByteSource } from '../formats/byte-source.ts';
import { Damaged } from './faults.ts';
import type { FileRecord } from './schema.ts';
import type { Store } from './store.ts';

export interface FileEntry {
  readonly path: string;
  readonly bytes: Uint8Array;
}

export async function sha256(bytes: Uint8Array): Promise<string> {
  const digest = await crypto.subtle.digest('SHA-256', bytes as Uint8Array<ArrayBuffer>);
  return Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, '0')).join('');
}

/** Every path of an owner that starts with `prefix`. */
const range = (owner: string, prefix = ''): IDBKeyRange =>
  IDBKeyRange.bound([owner, prefix], [owner, `${prefix}\uffff`]);

/** Chunk keys of an owner start with its name and a space. */
const chunkRange = (owner: string): IDBKeyRange => IDBKeyRange.bound(`${owner} `, `${owner} \uffff`);

/** All of the entries or, whatever happens, none. */
export function writeFiles(
  store: Store,
  owner: string,
  entries: readonly FileEntry[],
  durable: boolean,
): Promise<void> {
  return store.inTurn(owner, async () => {
    // Chromium keeps large values as files of their own, which only their own transaction flushes.
    const durability = durable ? 'strict' : 'relaxed';
    const modified = new Date().toISOString();
    const records: FileRecord[] = [];
    const batch = new ChunkBatch(store, durability);
    for (const { path, bytes } of entries) {
      const chunks: string[] = [];
      for (let start = 0; start < bytes.length; start += store.chunkBytes) {
        chunks.push(await batch.add(owner, bytes.subarray(start, start + store.chunkBytes)));
      }
      records.push({ owner, path, bytes: bytes.length, chunk_bytes: store.chunkBytes, chunks, modified });
    }
    await batch.flush();
    await writeManifests(store, records, durability);
  });
}

/** One file as it comes, in pieces of any length; there is nothing of it until its end. */
export function writeStream(
  store: Store,
  owner: string,
  path: string,
  pieces: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
): Promise<void> {
  return store.inTurn(owner, async () => {
    const batch = new ChunkBatch(store, 'relaxed');
    const chunks: string[] = [];
    const buffer = new Uint8Array(store.chunkBytes);
    let filled = 0;
    let bytes = 0;
    for await (const piece of pieces) {
      for (let at = 0; at < piece.length;) {
        const part = piece.subarray(at, at + buffer.length - filled);
        buffer.set(part, filled);
        filled += part.length;
        at += part.length;
        bytes += part.length;
        if (filled === buffer.length) {
          chunks.push(await batch.add(owner, buffer.slice()));
          filled = 0;
        }
      }
    }
    if (filled > 0) chunks.push(await batch.add(owner, buffer.slice(0, filled)));
    await batch.flush();
    const modified = new Date().toISOString();
    await writeManifests(store, [{ owner, path, bytes, chunk_bytes: store.chunkBytes, chunks, modified }], 'relaxed');
  });
}

/** Manifests over chunks that are already kept; what they replace is forgotten. */
export async function writeManifests(
  store: Store,
  records: readonly FileRecord[],
  durability: 'strict' | 'relaxed',
): Promise<void> {
  const replaced = await store.write(['files'], durability, async (tx) => {
    const old = await Promise.all(records.map(({ owner, path }) => tx.store.get([owner, path])));
    await Promise.all(records.map((record) => tx.store.put(record)));
    return old.flatMap((record) => record?.chunks ?? []);
  });
  await dropUnnamed(store, replaced);
}

export function deleteFiles(store: Store, owner: string, paths: readonly string[]): Promise<void> {
  return store.inTurn(owner, async () => {
    const dropped = await store.write(['files'], 'relaxed', async (tx) => {
      const old = await Promise.all(paths.map((path) => tx.store.get([owner, path])));
      await Promise.all(paths.map((path) => tx.store.delete([owner, path])));
      return old.flatMap((record) => record?.chunks ?? []);
    });
    await dropUnnamed(store, dropped);
  });
}

export async function listFiles(store: Store, owner: string, prefix = ''): Promise<FileRecord[]> {
  return store.read(['files'], (tx) => tx.store.getAll(range(owner, prefix)));
}

export async function fileRecord(store: Store, owner: string, path: string): Promise<FileRecord | undefined> {
  return store.read(['files'], (tx) => tx.store.get([owner, path]));
}

export async function readFile(
  store: Store,
  owner: string,
  path: string,
): Promise<Uint8Array<ArrayBuffer> | undefined> {
  // One transaction for manifest and chunks: a writer in between cannot leave us with half of each.
  const found = await store.read(['files', 'chunks'], async (tx) => {
    const record = await tx.objectStore('files').get([owner, path]);
    if (!record || record.chunks.includes(null)) return undefined;
    const chunks = await Promise.all(record.chunks.map((key) => tx.objectStore('chunks').get(key!)));
    return { record, chunks };
  });
  if (!found) return undefined;
  const { record, chunks } = found;
  const parts: Uint8Array<ArrayBuffer>[] = [];
  for (const [i, key] of record.chunks.entries()) parts.push(await checked(path, key!, chunks[i]));
  if (parts.length === 1) return parts[0];
  const whole = new Uint8Array(record.bytes);
  parts.forEach((part, i) => whole.set(part, i * record.chunk_bytes));
  return whole;
}

/** Random access to a kept file; reads the chunks that it must, checks each, and remembers the last. */
export function keptSource(store: Store, record: FileRecord, name: string): ByteSource {
  let last: { index: number; bytes: Uint8Array<ArrayBuffer> } | undefined;
  return {
    name,
    size: record.bytes,
    async read(start, end) {
      if (start < 0 || end > record.bytes || start > end) {
        throw new RangeError(`${name}: bytes ${start} to ${end} of ${record.bytes}`);
      }
      const bytes = new Uint8Array(end - start);
      for (let index = Math.floor(start / record.chunk_bytes); index * record.chunk_bytes < end; index++) {
        if (last?.index !== index) last = { index, bytes: await readChunk(store, record, index) };
        const base = index * record.chunk_bytes;
        const part = last.bytes.subarray(Math.max(0, start - base), Math.min(last.bytes.length, end - base));
        bytes.set(part, Math.max(0, base - start));
      }
      return bytes;
    },
  };
}

export async function readChunk(store: Store, record: FileRecord, index: number): Promise<Uint8Array<ArrayBuffer>> {
  const key = record.chunks[index];
  if (key == null) throw new Damaged(record.path, `part ${index} is missing`);
  return checked(record.path, key, await store.read(['chunks'], (tx) => tx.store.get(key)));
}

/** What no manifest of the owner names; call it under the owner's lock. */
export function collectGarbage(store: Store, owner: string): Promise<number> {
  return store.inTurn(owner, async () => {
    const unnamed = await store.read(['files', 'chunks'], async (tx) => {
      const named = new Set<string>();
      let cursor = await tx.objectStore('files').index('chunk').openKeyCursor(chunkRange(owner), 'nextunique');
      for (; cursor; cursor = await cursor.continue()) named.add(cursor.key);
      return (await tx.objectStore('chunks').getAllKeys(chunkRange(owner))).filter((key) => !named.has(key));
    });
    if (unnamed.length > 0) {
      await store.write(['chunks'], 'relaxed', (tx) => Promise.all(unnamed.map((key) => tx.store.delete(key))));
    }
    return unnamed.length;
  });
}

/** Everything of an owner: manifests first, so that a crash in between leaves only garbage. */
export function deleteOwner(store: Store, owner: string): Promise<void> {
  return store.inTurn(owner, async () => {
    await store.write(['files'], 'relaxed', (tx) => tx.store.delete(range(owner)));
    await store.write(['chunks'], 'relaxed', (tx) => tx.store.delete(chunkRange(owner)));
  });
}

/** Puts chunks in transactions of at most one chunk's bytes, and those that are there already not at all. */
export class ChunkBatch {
  private waiting = new Map<string, Uint8Array>();
  private bytes = 0;

  constructor(
    private readonly store: Store,
    private readonly durability: 'strict' | 'relaxed',
  ) {}

  /** Resolves with the chunk's key. */
  async add(owner: string, bytes: Uint8Array): Promise<string> {
    const key = `${owner} ${await sha256(bytes)}`;
    if (this.waiting.has(key)) return key;
    if ((await this.store.read(['chunks'], (tx) => tx.store.getKey(key))) !== undefined) return key;
    if (this.bytes + bytes.length > this.store.chunkBytes) await this.flush();
    this.waiting.set(key, bytes);
    this.bytes += bytes.length;
    return key;
  }

  async flush(): Promise<void> {
    if (this.waiting.size === 0) return;
    const chunks = [...this.waiting];
    this.waiting = new Map();
    this.bytes = 0;
    await this.store.write(['chunks'], this.durability, (tx) =>
      // A view would be kept with the whole buffer behind it.
      Promise.all(chunks.map(([key, bytes]) => tx.store.put(Uint8Array.from(bytes).buffer, key))),
    );
  }
}

async function checked(path: string, key: string, buffer: ArrayBuffer | undefined): Promise<Uint8Array<ArrayBuffer>> {
  if (!buffer) throw new Damaged(path, 'a part is missing');
  const bytes = new Uint8Array(buffer);
  if (!key.endsWith(` ${await sha256(bytes)}`)) throw new Damaged(path, 'a part has other bytes than were written');
  return bytes;
}

async function dropUnnamed(store: Store, keys: readonly (string | null)[]): Promise<void> {
  const candidates = [...new Set(keys)].filter((key) => key !== null);
  if (candidates.length === 0) return;
  await store.write(['files', 'chunks'], 'relaxed', async (tx) => {
    const index = tx.objectStore('files').index('chunk');
    const uses = await Promise.all(candidates.map((key) => index.count(key)));
    await Promise.all(candidates.filter((_, i) => uses[i] === 0).map((key) => tx.objectStore('chunks').delete(key)));
  });
}
