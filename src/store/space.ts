/** How much room there is, what takes it, and how safe it is from the browser's own clearing. */
import { deleteOwner } from './files.ts';
import { withLock } from './locks.ts';
import type { Shelves } from './schema.ts';
import type { Store } from './store.ts';

export interface Space {
  /** Bytes that this origin uses and may use; the browser's estimates. */
  readonly used: number;
  readonly quota: number;
  /** true: the browser does not clear it to make room for other pages. */
  readonly persisted: boolean;
}

export async function estimateStorage(): Promise<Space> {
  const { usage = 0, quota = 0 } = await navigator.storage.estimate();
  return { used: usage, quota, persisted: await navigator.storage.persisted() };
}

/** Firefox asks the person; others decide by themselves. */
export const persist = (): Promise<boolean> => navigator.storage.persist();

export interface Kept {
  /** `run:ID` or `model:NAME`. */
  readonly owner: string;
  readonly bytes: number;
  readonly files: number;
  /** Bytes by the first folder of the path: cache, checkpoints, exports… */
  readonly areas: Record<string, number>;
  /** A model whose download has not ended. */
  readonly partial: boolean;
}

/** Owners with what they take, the largest first. Chunks that files share count once. */
export async function listKept(store: Store): Promise<Kept[]> {
  const records = (await store.read(['files'], (tx) => tx.store.getAll())).filter(({ absent }) => !absent);
  const byOwner = new Map<string, Shelves['files']['value'][]>();
  for (const record of records) byOwner.set(record.owner, [...(byOwner.get(record.owner) ?? []), record]);
  return [...byOwner]
    .map(([owner, files]): Kept => {
      const seen = new Set<string>();
      const areas: Record<string, number> = {};
      for (const { path, bytes, chunk_bytes, chunks } of files) {
        const area = path.includes('/') ? path.slice(0, path.indexOf('/')) : path;
        areas[area] ??= 0;
        for (const [i, key] of chunks.entries()) {
          if (key === null || seen.has(key)) continue;
          seen.add(key);
          areas[area] += Math.min(chunk_bytes, bytes - i * chunk_bytes);
        }
      }
      return {
        owner,
        bytes: Object.values(areas).reduce((sum, n) => sum + n, 0),
        files: files.length,
        areas,
        partial: files.some((file) => file.chunks.includes(null)),
      };
    })
    .sort((a, b) => b.bytes - a.bytes);
}

export const deleteModel = (store: Store, owner: string): Promise<void> =>
  withLock(owner, () => deleteOwner(store, owner));
