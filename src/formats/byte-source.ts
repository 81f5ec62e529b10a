/**
 * Random access to bytes that may lie in a file, behind a URL (Range requests) or in memory.
 * Readers of large formats take one of these, so that no file is ever read whole.
 */
export interface ByteSource {
  /** As the person named it; errors repeat it. */
  readonly name: string;
  /** Bytes. */
  readonly size: number;
  /** Of the whole file, in hexadecimal, where whoever gives it states one. */
  readonly sha256?: string;
  /** Of its first bytes, how many came when it was opened and cost nothing to read again. */
  readonly at_hand?: number;
  /** Reading on costs what is read; going back costs all that lies before, once more. */
  readonly in_order?: boolean;
  /** Bytes [start, end); rejects when they are not all there. */
  read(start: number, end: number): Promise<Uint8Array<ArrayBuffer>>;
}

/** A folder of files: a model folder on disk, at a URL, dropped into the page, or kept in the store. */
export interface FileSource {
  /** As the person named it; errors repeat it. */
  readonly name: string;
  /** undefined where there is no such file. Paths use `/` and are relative to the folder. */
  open(path: string): Promise<ByteSource | undefined>;
  /** Names of the files where the folder can tell (a URL cannot: undefined). */
  list?(): Promise<string[]>;
}

export class MemorySource implements ByteSource {
  constructor(
    readonly name: string,
    private readonly bytes: Uint8Array<ArrayBuffer>,
  ) {}

  get size(): number {
    return this.bytes.byteLength;
  }

  async read(start: number, end: number): Promise<Uint8Array<ArrayBuffer>> {
    if (start < 0 || end > this.size || start > end) {
      throw new RangeError(`${this.name}: bytes ${start} to ${end} of ${this.size}`);
    }
    return this.bytes.subarray(start, end);
  }
}

export async function readAll(source: ByteSource): Promise<Uint8Array<ArrayBuffer>> {
  return source.read(0, source.size);
}

export async function readText(source: ByteSource): Promise<string> {
  return new TextDecoder('utf-8', { fatal: true }).decode(await readAll(source));
}

/** What a streaming writer yields, as one piece: for files known to be small. */
export async function collectBytes(
  parts: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
): Promise<Uint8Array<ArrayBuffer>> {
  const pieces: Uint8Array[] = [];
  let length = 0;
  for await (const piece of parts) {
    pieces.push(piece);
    length += piece.length;
  }
  const whole = new Uint8Array(length);
  let at = 0;
  for (const piece of pieces) {
    whole.set(piece, at);
    at += piece.length;
  }
  return whole;
}
