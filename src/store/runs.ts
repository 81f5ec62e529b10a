/**
 * The list of runs: one record of facts each, and its metrics line by line. What the facts are is job's business
 * (`Facts`, `Line`); the store keeps them.
 */
import { deleteOwner } from './files.ts';
import { runOwner } from './run-keep.ts';
import type { Store } from './store.ts';

const lineRange = (id: string): IDBKeyRange => IDBKeyRange.bound([id, 0], [id, Infinity]);

export class Runs<Facts, Line> {
  constructor(private readonly store: Store) {}

  async get(id: string): Promise<{ id: string; created: string; facts: Facts } | undefined> {
    const record = await this.store.read(['runs'], (tx) => tx.store.get(id));
    return record as { id: string; created: string; facts: Facts } | undefined;
  }

  /** The newest first. */
  async list(): Promise<{ id: string; created: string; facts: Facts }[]> {
    const records = await this.store.read(['runs'], (tx) => tx.store.getAll());
    return (records as { id: string; created: string; facts: Facts }[]).sort((a, b) =>
      a.created < b.created ? 1 : -1,
    );
  }

  async put(id: string, created: string, facts: Facts): Promise<void> {
    await this.store.write(['runs'], 'strict', (tx) => tx.store.put({ id, created, facts }));
  }

  async lines(id: string): Promise<Line[]> {
    return (await this.store.read(['lines'], (tx) => tx.store.getAll(lineRange(id)))) as Line[];
  }

  async append(id: string, lines: readonly Line[]): Promise<void> {
    await this.store.write(['lines'], 'relaxed', async (tx) => {
      const last = await tx.store.openKeyCursor(lineRange(id), 'prev');
      const next = last ? last.key[1] + 1 : 0;
      await Promise.all(lines.map((line, i) => tx.store.put(line, [id, next + i])));
    });
  }

  /** Of the lines those that `keep` keeps; a run that goes back to a checkpoint writes the later ones again. */
  async trim(id: string, keep: (line: Line) => boolean): Promise<void> {
    await this.store.write(['lines'], 'relaxed', async (tx) => {
      const lines = (await tx.store.getAll(lineRange(id))) as Line[];
      await tx.store.delete(lineRange(id));
      await Promise.all(lines.filter(keep).map((line, i) => tx.store.put(line, [id, i])));
    });
  }

  /** The run is gone from the list before its bytes are. */
  async delete(id: string): Promise<void> {
    await this.store.write(['runs', 'lines'], 'strict', async (tx) => {
      await tx.objectStore('runs').delete(id);
      await tx.objectStore('lines').delete(lineRange(id));
    });
    await deleteOwner(this.store, runOwner(id));
  }
}
