/**
 * A run as one file, to keep elsewhere or to take to another browser: a zip (stored, so any zip tool opens it) of
 * `backup.json` (the run's record, its metrics, every file with the hashes of its parts) and `files/…`.
 */
import { makeZip } from 'client-zip';
import { readAll, type ByteSource } from '../formats/byte-source.ts';
import { InputError } from '../formats/input-error.ts';
import { isJsonObject, parseStrictJson, type JsonObject } from '../formats/strict-json.ts';
import { ChunkBatch, deleteOwner, keptSource, listFiles } from './files.ts';
import { withLock } from './locks.ts';
import { runOwner } from './run-keep.ts';
import type { FileRecord } from './schema.ts';
import { CHUNK_BYTES, type Store } from './store.ts';
import { openZip, type Zip } from './zip.ts';

const FORMAT = 'stillroom-run';
const VERSION = 1;

interface BackupFile {
  readonly path: string;
  readonly bytes: number;
  readonly chunk_bytes: number;
  readonly sha256: readonly string[];
}

interface Backup {
  readonly id: string;
  readonly created: string;
  readonly facts: unknown;
  readonly lines: readonly unknown[];
  readonly files: readonly BackupFile[];
}

/** The file, as it is read; nothing of it is held in memory but a chunk. */
export async function backUpRun(store: Store, runId: string): Promise<ReadableStream<Uint8Array>> {
  const owner = runOwner(runId);
  const record = await store.read(['runs'], (tx) => tx.store.get(runId));
  if (!record) throw new InputError(runId, '', 'there is no such run', 'a kept run');
  const lines = await store.read(['lines'], (tx) => tx.store.getAll(IDBKeyRange.bound([runId, 0], [runId, Infinity])));
  const files = await listFiles(store, owner);
  const backup = {
    format: FORMAT,
    version: VERSION,
    ...record,
    lines,
    files: files.map(({ path, bytes, chunk_bytes, chunks }) => ({
      path,
      bytes,
      chunk_bytes,
      sha256: chunks.map((key) => key?.slice(owner.length + 1)),
    })),
  };
  const lastModified = new Date();
  return makeZip(
    (async function* () {
      yield { name: 'backup.json', lastModified, input: JSON.stringify(backup) };
      for (const file of files) {
        yield {
          name: `files/${file.path}`,
          lastModified,
          size: file.bytes,
          input: stream(keptSource(store, file, file.path)),
        };
      }
    })(),
  );
}

async function* stream(source: ByteSource): AsyncGenerator<Uint8Array<ArrayBuffer>> {
  const step = 4 * 1024 * 1024;
  for (let at = 0; at < source.size; at += step) yield await source.read(at, Math.min(source.size, at + step));
}

/** All of it or nothing. Resolves with the run's id: its old one where that is free, else a new one. */
export async function restoreRun(store: Store, file: ByteSource): Promise<string> {
  const zip = await openZip(file);
  const backup = await readBackup(zip, file.name);
  const taken = await store.read(['runs'], (tx) => tx.store.getKey(backup.id));
  const id = taken === undefined ? backup.id : `${backup.id}-${crypto.randomUUID().slice(0, 8)}`;
  const owner = runOwner(id);
  return withLock(owner, async () => {
    try {
      const records: FileRecord[] = [];
      for (const entry of backup.files) records.push(await copyIn(store, owner, zip, entry, file.name));
      await store.write(['runs', 'lines', 'files'], 'strict', async (tx) => {
        const facts = rename(backup.facts, id);
        await tx.objectStore('runs').put({ id, created: backup.created, facts });
        await Promise.all(backup.lines.map((line, i) => tx.objectStore('lines').put(line, [id, i])));
        await Promise.all(records.map((record) => tx.objectStore('files').put(record)));
      });
      return id;
    } catch (error) {
      await deleteOwner(store, owner);
      throw error;
    }
  });
}

async function copyIn(store: Store, owner: string, zip: Zip, entry: BackupFile, name: string): Promise<FileRecord> {
  const source = await zip.open(`files/${entry.path}`);
  if (source?.size !== entry.bytes) {
    throw new InputError(name, entry.path, 'it is not there as backup.json lists it', 'a whole backup');
  }
  const batch = new ChunkBatch(store, 'strict');
  const chunks: string[] = [];
  for (let at = 0; at < entry.bytes; at += entry.chunk_bytes) {
    const bytes = await source.read(at, Math.min(entry.bytes, at + entry.chunk_bytes));
    const key = await batch.add(owner, bytes);
    if (key !== `${owner} ${entry.sha256[chunks.length]}`) {
      throw new InputError(name, entry.path, 'its bytes have changed since the backup', 'an unchanged backup');
    }
    chunks.push(key);
  }
  await batch.flush();
  const { path, bytes, chunk_bytes } = entry;
  return { owner, path, bytes, chunk_bytes, chunks, modified: new Date().toISOString() };
}

/** Facts carry the run's id too, where job put it. */
function rename(facts: unknown, id: string): unknown {
  return isJsonObject(facts) && typeof facts.id === 'string' ? { ...facts, id } : facts;
}

async function readBackup(zip: Zip, name: string): Promise<Backup> {
  const wrong = (what: string): InputError =>
    new InputError(name, 'backup.json', what, 'a backup that Stillroom wrote');
  const source = await zip.open('backup.json');
  if (!source || source.size > 256 * 1024 * 1024) throw wrong('it is missing or too long');
  let json: unknown;
  try {
    json = parseStrictJson(new TextDecoder('utf-8', { fatal: true }).decode(await readAll(source)));
  } catch (error) {
    throw wrong((error as Error).message);
  }
  if (!isJsonObject(json) || json.format !== FORMAT) throw wrong('it is not the backup of a run');
  if (json.version !== VERSION) throw wrong(`its version is ${String(json.version)}, this Stillroom reads ${VERSION}`);
  const { id, created, facts, lines, files } = json;
  if (typeof id !== 'string' || id === '' || typeof created !== 'string' || !Array.isArray(lines)) {
    throw wrong('the run in it has no id, time or metrics');
  }
  if (!Array.isArray(files) || !files.every(isBackupFile)) throw wrong('its list of files is broken');
  return { id, created, facts, lines, files };
}

function isBackupFile(value: unknown): value is BackupFile {
  if (!isJsonObject(value)) return false;
  const { path, bytes, chunk_bytes, sha256 } = value as JsonObject;
  return (
    typeof path === 'string' &&
    Number.isSafeInteger(bytes) &&
    (bytes as number) >= 0 &&
    Number.isSafeInteger(chunk_bytes) &&
    (chunk_bytes as number) > 0 &&
    (chunk_bytes as number) <= CHUNK_BYTES &&
    Array.isArray(sha256) &&
    sha256.length === Math.ceil((bytes as number) / (chunk_bytes as number)) &&
    sha256.every((hash) => typeof hash === 'string')
  );
}
