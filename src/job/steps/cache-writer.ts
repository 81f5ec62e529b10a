/** Rows of a cache as they come, written in handfuls: when so many bytes of them, or seconds, have come together. */
import type { CacheRow, WritableLogitCache } from '../../formats/logit-cache.ts';
import type { ActiveRun } from '../active-run.ts';

const HANDFUL = { bytes: 1 << 20, seconds: 5 };

export class CacheWriter {
  private readonly begun: number;
  private readonly started: number;
  private written: number;
  private waiting: CacheRow[] = [];

  /** @param of rows that the cache will have */
  constructor(
    private readonly run: ActiveRun,
    private readonly cache: WritableLogitCache,
    private readonly of: number,
  ) {
    this.begun = cache.rows;
    this.started = this.written = this.now();
  }

  async add(rows: readonly CacheRow[]): Promise<void> {
    this.waiting.push(...rows);
    const bytes = this.waiting.reduce((sum, row) => sum + 4 * (row.ids.length + row.logits.length), 0);
    const now = this.now();
    if (bytes >= HANDFUL.bytes || now - this.written > 1000 * HANDFUL.seconds) {
      await this.flush();
      this.written = now;
    }
    const done = this.cache.rows + this.waiting.length;
    const rate = (done - this.begun) / Math.max(1e-3, (now - this.started) / 1000);
    this.run.progress('teacher', done, this.of, 'rows', { rate, seconds_left: (this.of - done) / rate });
  }

  /** What has come is in the cache when this resolves. */
  async flush(): Promise<void> {
    const { waiting } = this;
    this.waiting = [];
    if (waiting.length > 0) await this.cache.append(waiting);
  }

  /** Seconds for all rows, by the rate of those of this sitting. */
  seconds(): number {
    return (this.now() - this.started) / 1000 / ((this.of - this.begun) / this.of);
  }

  private now(): number {
    return this.run.host.now().getTime();
  }
}
