/** What a run's steps keep, as the `Keep` that they are handed: an area of the run's files, each a folder by its name. */
import type { Keep } from '../formats/keep.ts';
import { deleteFiles, listFiles, readFile, writeFiles } from './files.ts';
import type { Store } from './store.ts';

export const runOwner = (runId: string): string => `run:${runId}`;

/** `area`: data, cache, checkpoints, exports, inputs. Writers hold the run's lock. */
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
