/**
 * The opened database and the one door through which every transaction goes: durability asked for by name, a full disk
 * turned into `DiskFull` wherever it shows, and a seam where tests break the nth transaction.
 */
import { openDB, type IDBPDatabase, type IDBPTransaction, type StoreNames } from 'idb';
import { StoreClosed, translate } from './faults.ts';
import { migrations, SCHEMA_VERSION, type Shelves } from './schema.ts';

export interface StoreOptions {
  /** Of the database; tests take their own. */
  name?: string;
  /** At most 16 MiB; tests take smaller ones. */
  chunkBytes?: number;
  /** Another tab holds an older version of the database open, and has been asked to let go. */
  onBlocked?: () => void;
  /** This page had to let go of the database for a newer one. */
  onClosed?: () => void;
  /**
   * Called before the nth (from 0) writing transaction commits; an error that it returns aborts the transaction, as the
   * browser does when the disk is full.
   */
  breakWrite?: (n: number) => Error | undefined;
}

type Names = StoreNames<Shelves>;

export const CHUNK_BYTES = 16 * 1024 * 1024;

export class Store {
  readonly chunkBytes: number;
  private writes = 0;
  /** One writer at a time and owner, inside this thread; across tabs the owner's lock does it. */
  private readonly queues = new Map<string, Promise<unknown>>();
  private closed = false;

  private constructor(
    private readonly db: IDBPDatabase<Shelves>,
    private readonly options: StoreOptions,
  ) {
    this.chunkBytes = Math.min(options.chunkBytes ?? CHUNK_BYTES, CHUNK_BYTES);
  }

  static async open(options: StoreOptions = {}): Promise<Store> {
    // Either may be asked for while the database is still being opened.
    const opened: { store?: Store } = {};
    const letGo = (): void => {
      if (!opened.store || opened.store.closed) return;
      opened.store.close();
      options.onClosed?.();
    };
    const db = await openDB<Shelves>(options.name ?? 'stillroom', SCHEMA_VERSION, {
      async upgrade(db, from, _to, tx) {
        for (const migrate of migrations.slice(from)) await migrate(db, tx);
      },
      blocked: () => options.onBlocked?.(),
      blocking: letGo,
      terminated: letGo,
    });
    return (opened.store = new Store(db, options));
  }

  close(): void {
    this.closed = true;
    this.db.close();
  }

  /** `body` awaits nothing but requests of `tx`: a transaction commits as soon as it has none. */
  async read<N extends [Names, ...Names[]], T>(
    stores: N,
    body: (tx: IDBPTransaction<Shelves, N, 'readonly'>) => Promise<T>,
  ): Promise<T> {
    if (this.closed) throw new StoreClosed();
    return body(this.db.transaction(stores, 'readonly'));
  }

  async write<N extends [Names, ...Names[]], T>(
    stores: N,
    durability: 'strict' | 'relaxed',
    body: (tx: IDBPTransaction<Shelves, N, 'readwrite'>) => Promise<T>,
  ): Promise<T> {
    if (this.closed) throw new StoreClosed();
    const broken = this.options.breakWrite?.(this.writes++);
    const tx = this.db.transaction(stores, 'readwrite', { durability });
    const done = tx.done;
    done.catch(() => undefined); // awaited below; a rejection before that must not be "unhandled"
    try {
      const result = await body(tx);
      if (broken) throw broken;
      // The disk may turn out to be full only now: the requests have succeeded, and the transaction aborts.
      await done;
      return result;
    } catch (error) {
      try {
        tx.abort();
      } catch {
        // It has ended by itself.
      }
      await done.catch(() => undefined);
      throw translate(tx.error ?? error);
    }
  }

  /** Runs `work` after whatever was queued for the owner before it. */
  inTurn<T>(owner: string, work: () => Promise<T>): Promise<T> {
    const before = this.queues.get(owner) ?? Promise.resolve();
    const result = before.then(work, work);
    this.queues.set(
      owner,
      result.catch(() => undefined),
    );
    return result;
  }
}
