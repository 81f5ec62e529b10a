/**
 * A file of a server that serves no ranges, read forward: one request, whose body waits where it was read up to. A read
 * further on passes over what lies between; one that goes back begins at the first byte again.
 */

/** A browser has six connections to a server: these waiting ones leave some for what else is asked. */
const MOST_WAITING = 4;
const waiting: ForwardBody[] = [];

export class ForwardBody {
  private reader: ReadableStreamDefaultReader<Uint8Array> | undefined;
  /** What came and was not taken yet; its first byte is the file's byte `at`. */
  private rest: Uint8Array = new Uint8Array(0);
  private at = 0;
  private busy = false;

  /** @param ask for the file from its first byte on */
  constructor(
    private readonly ask: () => Promise<Response>,
    private readonly onBytes?: (bytes: number) => void,
  ) {}

  /**
   * Fills `into` with the bytes from `start` on.
   * @returns how many came before the connection broke; none is an error, the connection's own
   */
  async read(start: number, into: Uint8Array): Promise<number> {
    let came = 0;
    this.busy = true;
    try {
      if (!this.reader || start < this.at) await this.begin();
      for (;;) {
        const skipped = Math.min(start + came - this.at, this.rest.length);
        const taken = this.rest.subarray(skipped, skipped + into.length - came);
        into.set(taken, came);
        came += taken.length;
        this.at += skipped + taken.length;
        this.rest = this.rest.subarray(skipped + taken.length);
        if (came === into.length) return came;
        const { value, done } = await this.reader!.read();
        if (done) throw new Error('the body ended too soon');
        this.onBytes?.(value.length);
        this.rest = value;
      }
    } catch (error) {
      this.close();
      if (came === 0) throw error;
      return came;
    } finally {
      this.busy = false;
    }
  }

  /** Lets go of the connection; the next read asks again. */
  close(): void {
    void this.reader?.cancel().catch(() => undefined);
    this.reader = undefined;
    this.rest = new Uint8Array(0);
    this.at = 0;
    const place = waiting.indexOf(this);
    if (place >= 0) waiting.splice(place, 1);
  }

  private async begin(): Promise<void> {
    this.close();
    const response = await this.ask();
    this.reader = response.body!.getReader();
    waiting.push(this);
    if (waiting.length > MOST_WAITING) waiting.find((other) => other !== this && !other.busy)?.close();
  }
}
