/**
 * What a run keeps, by area (inputs, data, cache, checkpoints, out): as the `Keep` that its steps are handed, and as a
 * folder of files too large to hold at once. An area is a folder by its name; writers hold the run's lock.
 */
import type { FileSource } from '../formats/byte-source.ts';
import type { Keep } from '../formats/keep.ts';
import { deleteFiles, fileRecord, keptSource, listFiles, readFile, writeFiles, writeStream } from './files.ts';
import type { Store } from './store.ts';

export const runOwner = (runId: string): string => `run:${runId}`;

export function runKeep(store: Store, runId: string, area: string): Keep {
  const owner = runOwner(runId);
  const path = (key: string): string => `${area}/${key}`;
  return {
    get: (key) => readFile(store, owner, path(key)),
    put: (entries, options) =>
      writeFiles(
        store,
        owner,
        entries.map(({ key, bytes }) => ({ path: path(key), bytes })),
        options?.durable ?? false,
      ),
    keys: async (prefix) =>
      (await listFiles(store, owner, path(prefix))).map((record) => record.path.slice(area.length + 1)),
    delete: (keys) => deleteFiles(store, owner, keys.map(path)),
  };
}

export interface RunFolder extends FileSource {
  list(): Promise<string[]>;
  /** All of the file or nothing. */
  write(path: string, pieces: AsyncIterable<Uint8Array> | Iterable<Uint8Array>): Promise<void>;
}

export function runFolder(store: Store, runId: string, area: string): RunFolder {
  const owner = runOwner(runId);
  return {
    name: area,
    async open(path) {
      const record = await fileRecord(store, owner, `${area}/${path}`);
      return record && keptSource(store, record, path);
    },
    list: async () => (await listFiles(store, owner, `${area}/`)).map(({ path }) => path.slice(area.length + 1)),
    write: (path, pieces) => writeStream(store, owner, `${area}/${path}`, pieces),
  };
}
