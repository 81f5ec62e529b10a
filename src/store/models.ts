/**
 * Models from elsewhere, kept as they are read: a file's chunks are written while a reader asks for them, so a download
 * that broke goes on where it was, and a model opened once is there without a network.
 */
import { createSHA256 } from 'hash-wasm';
import type { ByteSource, FileSource } from '../formats/byte-source.ts';
import { DownloadFault } from '../formats/download-fault.ts';
import { Damaged } from './faults.ts';
import { fileRecord, keptSource, listFiles, readChunk, sha256, writeManifests } from './files.ts';
import type { FileRecord } from './schema.ts';
import type { Store } from './store.ts';

/** `name` names the bytes: a hub name with its revision, or a URL. */
export const modelOwner = (name: string): string => `model:${name}`;

/** The kept files of a model alone; `open` gives what arrived whole. */
export function keptFolder(store: Store, name: string): FileSource {
  const owner = modelOwner(name);
  return {
    name,
    async open(path) {
      const record = await fileRecord(store, owner, path);
      if (!record || record.absent || record.chunks.includes(null)) return undefined;
      return keptSource(store, record, `${name}/${path}`);
    },
    list: async () => (await listFiles(store, owner)).filter(({ absent }) => !absent).map(({ path }) => path),
  };
}

/**
 * `upstream` behind what is kept of it. A file that has arrived is not asked for again; of one that was not there it is
 * asked, as it may have come, and taken to be missing still where nobody answers.
 */
export function throughStore(store: Store, name: string, upstream: FileSource): FileSource {
  const owner = modelOwner(name);
  const opened = new Map<string, Promise<ByteSource | undefined>>();
  let away = false; // nobody answered: each file more would cost its attempts and their pauses

  const keep = async (path: string, about: Pick<FileRecord, 'bytes' | 'chunks' | 'absent'>): Promise<FileRecord> => {
    const modified = new Date().toISOString();
    const record: FileRecord = { owner, path, chunk_bytes: store.chunkBytes, modified, ...about };
    await store.inTurn(owner, () => writeManifests(store, [record], 'relaxed'));
    return record;
  };
  const ask = async (path: string, known: FileRecord | undefined): Promise<ByteSource | undefined> => {
    if (known?.absent && away) return undefined;
    try {
      return await upstream.open(path);
    } catch (error) {
      if (!known?.absent || !(error instanceof DownloadFault)) throw error;
      away = true;
      return undefined;
    }
  };

  const open = async (path: string): Promise<ByteSource | undefined> => {
    const shown = `${upstream.name}/${path}`;
    const kept = await fileRecord(store, owner, path);
    if (kept && !kept.absent && !kept.chunks.includes(null)) {
      return passing(store, kept, shown, () => upstream.open(path));
    }
    const source = await ask(path, kept);
    if (!source) {
      if (!kept) await keep(path, { bytes: 0, chunks: [], absent: true });
      return undefined;
    }
    if (kept?.bytes === source.size && !kept.absent) return passing(store, kept, shown, async () => source);
    const chunks = new Array<null>(Math.ceil(source.size / store.chunkBytes)).fill(null);
    return passing(store, await keep(path, { bytes: source.size, chunks }), shown, async () => source);
  };

  return {
    name: upstream.name,
    open(path) {
      const known = opened.get(path) ?? open(path);
      opened.set(path, known);
      known.catch(() => opened.delete(path));
      return known;
    },
    async list() {
      const kept = await keptFolder(store, name).list!();
      return upstream.list ? upstream.list().catch(() => kept) : kept;
    },
  };
}

/** Reads kept chunks, and fetches and keeps those that are missing or damaged. */
function passing(
  store: Store,
  record: FileRecord,
  name: string,
  openSource: () => Promise<ByteSource | undefined>,
): ByteSource {
  const { bytes: size, chunk_bytes } = record;
  const chunks = [...record.chunks];
  let last: { index: number; bytes: Uint8Array<ArrayBuffer> } | undefined;
  let turn: Promise<unknown> = Promise.resolve();

  const hashOf = async (arrived: FileRecord): Promise<string> => {
    const hash = await createSHA256();
    hash.init();
    for (let index = 0; index < arrived.chunks.length; index++) hash.update(await readChunk(store, arrived, index));
    return hash.digest('hex');
  };

  const chunk = async (index: number): Promise<Uint8Array<ArrayBuffer>> => {
    if (chunks[index] != null) {
      try {
        return await readChunk(store, { ...record, chunks }, index);
      } catch (error) {
        if (!(error instanceof Damaged)) throw error;
      }
    }
    const source = await openSource();
    if (source?.size !== size) throw new Damaged(name, 'it has changed where it came from');
    const fetched = async (at: number): Promise<Uint8Array<ArrayBuffer>> => {
      const bytes = await source.read(at * chunk_bytes, Math.min(size, (at + 1) * chunk_bytes));
      chunks[at] = await keepChunk(store, record, at, bytes);
      return bytes;
    };
    // What a server without ranges gives on the way is kept: it would have to come again.
    if (source.in_order) for (let at = 0; at < index; at++) if (chunks[at] == null) await fetched(at);
    const bytes = await fetched(index);
    const whole = !chunks.includes(null);
    if (whole && source.sha256 && (await hashOf({ ...record, chunks })) !== source.sha256.toLowerCase()) {
      chunks.fill(null);
      await store.inTurn(record.owner, () => writeManifests(store, [{ ...record, chunks: [...chunks] }], 'relaxed'));
      throw new DownloadFault(name, 'what arrived is not what its source states (SHA-256)', 'the same once more');
    }
    return bytes;
  };

  /**
   * The header of a large file is looked at without fetching a chunk of its weights: a model too large for this device is
   * refused by then.
   */
  const atHand = async (start: number, end: number): Promise<Uint8Array<ArrayBuffer> | undefined> => {
    if (chunks[0] != null || size <= chunk_bytes || end > chunk_bytes) return undefined;
    const source = await openSource();
    return source?.size === size && end <= (source.at_hand ?? 0) ? source.read(start, end) : undefined;
  };

  const read = async (start: number, end: number): Promise<Uint8Array<ArrayBuffer>> => {
    if (start < 0 || end > size || start > end) throw new RangeError(`${name}: bytes ${start} to ${end} of ${size}`);
    const header = await atHand(start, end);
    if (header) return header;
    const bytes = new Uint8Array(end - start);
    for (let index = Math.floor(start / chunk_bytes); index * chunk_bytes < end; index++) {
      if (last?.index !== index) last = { index, bytes: await chunk(index) };
      const base = index * chunk_bytes;
      bytes.set(
        last.bytes.subarray(Math.max(0, start - base), Math.min(last.bytes.length, end - base)),
        Math.max(0, base - start),
      );
    }
    return bytes;
  };

  return {
    name,
    size,
    read(start, end) {
      // One at a time: two readers of one chunk fetch it once.
      const result = turn.then(() => read(start, end));
      turn = result.catch(() => undefined);
      return result;
    },
  };
}

/** Chunk and manifest in one transaction, over whatever another tab has fetched of the file meanwhile. */
async function keepChunk(store: Store, record: FileRecord, index: number, bytes: Uint8Array): Promise<string> {
  const key = `${record.owner} ${await sha256(bytes)}`;
  await store.write(['files', 'chunks'], 'relaxed', async (tx) => {
    const files = tx.objectStore('files');
    const now = await files.get([record.owner, record.path]);
    const base = now?.bytes === record.bytes && now.chunk_bytes === record.chunk_bytes ? now : record;
    await tx.objectStore('chunks').put(Uint8Array.from(bytes).buffer, key);
    await files.put({ ...base, chunks: base.chunks.map((old, i) => (i === index ? key : old)) });
  });
  return key;
}
