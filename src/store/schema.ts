/**
 * The database: what lies in which object store, and how an older one becomes this one.
 *
 *   runs      one record a run: its facts (recipe, state, history, report)     key: run id
 *   lines     metrics of a run, one a record, in order                         key: [run id, n]
 *   files     manifests: a kept file is a list of chunks                       key: [owner, path]
 *   chunks    bytes, at most 16 MiB each, named by owner and SHA-256           key: `${owner} ${sha256}`
 *   settings  small things of the page and the tuner                           key: name
 *
 * An owner is `run:ID` or `model:NAME@REVISION`. Chunks are shared inside one owner only, so that whoever holds the
 * owner's lock may collect its garbage without asking anyone else.
 */
import type { DBSchema, IDBPDatabase, IDBPTransaction, StoreNames } from 'idb';

export interface RunRecord {
  readonly id: string;
  /** ISO time. */
  readonly created: string;
  /** job's own facts; the store does not look inside. */
  readonly facts: unknown;
}

export interface FileRecord {
  readonly owner: string;
  readonly path: string;
  readonly bytes: number;
  /** Every chunk but the last has this many bytes. */
  readonly chunk_bytes: number;
  /** Keys in `chunks`; null where a download has not arrived yet. */
  readonly chunks: readonly (string | null)[];
  /** There is no such file where the model came from: it has no chunks, and nobody is shown it. */
  readonly absent?: true;
  /** ISO time. */
  readonly modified: string;
}

export interface Shelves extends DBSchema {
  runs: { key: string; value: RunRecord };
  lines: { key: [string, number]; value: unknown };
  files: { key: [string, string]; value: FileRecord; indexes: { chunk: string } };
  chunks: { key: string; value: ArrayBuffer };
  settings: { key: string; value: unknown };
}

export type Upgrade = IDBPTransaction<Shelves, StoreNames<Shelves>[], 'versionchange'>;

/** migrations[n] makes version n + 1 out of version n. Those of released versions are never edited. */
export const migrations: readonly ((db: IDBPDatabase<Shelves>, tx: Upgrade) => void | Promise<void>)[] = [
  (db) => {
    db.createObjectStore('runs', { keyPath: 'id' });
    db.createObjectStore('lines');
    db.createObjectStore('files', { keyPath: ['owner', 'path'] }).createIndex('chunk', 'chunks', { multiEntry: true });
    db.createObjectStore('chunks');
    db.createObjectStore('settings');
  },
  // `absent`: nothing to change, but a page that takes such a record for an empty file must let go first
  () => undefined,
];

export const SCHEMA_VERSION = migrations.length;
