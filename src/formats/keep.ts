/**
 * Where a step keeps what must survive (cache blocks, checkpoints). `job` hands one to each step: the browser's lies in
 * IndexedDB (store/), a test's in memory. No step knows which.
 */
export interface Keep {
  get(key: string): Promise<Uint8Array<ArrayBuffer> | undefined>;
  /**
   * All or nothing: after a crash every key holds either the old bytes or the new.
   * `durable` waits for the disk (a checkpoint's manifest, a cache block).
   */
  put(entries: { key: string; bytes: Uint8Array }[], options?: { durable?: boolean }): Promise<void>;
  keys(prefix: string): Promise<string[]>;
  delete(keys: string[]): Promise<void>;
}

export class MemoryKeep implements Keep {
  private readonly entries = new Map<string, Uint8Array<ArrayBuffer>>();

  async get(key: string): Promise<Uint8Array<ArrayBuffer> | undefined> {
    return this.entries.get(key);
  }

  async put(entries: { key: string; bytes: Uint8Array }[]): Promise<void> {
    for (const { key, bytes } of entries) this.entries.set(key, Uint8Array.from(bytes));
  }

  async keys(prefix: string): Promise<string[]> {
    return [...this.entries.keys()].filter((key) => key.startsWith(prefix)).sort();
  }

  async delete(keys: string[]): Promise<void> {
    for (const key of keys) this.entries.delete(key);
  }
}
