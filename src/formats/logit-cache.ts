/**
 * What a teacher said about every row of a dataset, kept: for each target position its k likeliest tokens and
 * log Σ exp(z / T) over the whole vocabulary. Written once, block after block; read in any order. An interrupted or
 * damaged cache opens as the rows before the damage, and its writer goes on from there.
 */
import { InputError } from './input-error.ts';
import type { Keep } from './keep.ts';
import type { CacheRow } from './logit-cache-coding.ts';
import {
  completeHeader,
  decodeBlock,
  decodeHeader,
  encodeBlock,
  encodeHeader,
  isWholesome,
  undamagedHead,
  type BlockHead,
  type CacheHeader,
} from './logit-cache-format.ts';

export type { CacheRow } from './logit-cache-coding.ts';
export type { CacheHeader } from './logit-cache-format.ts';

/** What must be the same for a cache to be of use. */
export type CacheExpectation = Partial<Pick<CacheHeader, 'tokenizer_hash' | 'dataset_hash' | 'vocab_size'>>;

/** Rows by number, wherever the blocks lie. */
export interface LogitCache {
  /** As the person named it; errors repeat it. */
  readonly name: string;
  readonly header: CacheHeader;
  /** Rows that are there: 0 up to this. */
  readonly rows: number;
  /** Target positions in these rows. */
  readonly positions: number;
  /** Bytes of the blocks. */
  readonly bytes: number;
  /** One row; its arrays are shared with later readers and not to be written. */
  read(row: number): Promise<CacheRow>;
  /** Mean probability that the entries of a position hold at a declared temperature. */
  massKept(temperature: number): number;
  /** Every block as written, in order. */
  blocks(): AsyncIterable<{ head: BlockHead; bytes: Uint8Array<ArrayBuffer> }>;
}

export interface WritableLogitCache extends LogitCache {
  /** Adds the next rows; when it resolves they are on disk. One call at a time. */
  append(rows: readonly CacheRow[]): Promise<void>;
}

const headerKey = 'logit-cache/header';
const blockPrefix = 'logit-cache/block/';
const blockKey = (index: number) => `${blockPrefix}${String(index).padStart(8, '0')}`;

/** A block is closed when it has about this much: small enough to decode for one row, large enough to be worth a key. */
const blockBytes = 1024 * 1024;
/** Decoded blocks that a reader keeps. */
const keptBytes = 64 * 1024 * 1024;

/** Begins a cache, or goes on with the one that the same header began. */
export async function createCache(
  keep: Keep,
  given: Omit<CacheHeader, 'coding'> & { coding?: number },
  name = 'logit cache',
): Promise<WritableLogitCache> {
  const bytes = encodeHeader(completeHeader(given));
  const header = decodeHeader(bytes, name);
  const stored = await keep.get(headerKey);
  if (stored === undefined) {
    await deleteCache(keep);
    await keep.put([{ key: headerKey, bytes }], { durable: true });
  } else {
    refuseOther(decodeHeader(stored, name), header, name);
  }
  return StoredCache.open(keep, header, name);
}

/** undefined where no cache was begun. Refuses one of another tokenizer, dataset or vocabulary. */
export async function openCache(
  keep: Keep,
  expected: CacheExpectation = {},
  name = 'logit cache',
): Promise<WritableLogitCache | undefined> {
  const stored = await keep.get(headerKey);
  if (stored === undefined) return undefined;
  const header = decodeHeader(stored, name);
  refuseOther(header, expected, name);
  return StoredCache.open(keep, header, name);
}

/** Keeps a copy of a cache, byte for byte, in a keep that has none. */
export async function storeCache(keep: Keep, cache: LogitCache): Promise<WritableLogitCache> {
  if ((await keep.get(headerKey)) !== undefined) {
    throw new InputError(cache.name, '', 'another cache is kept in its place', 'a place without one');
  }
  await deleteCache(keep);
  await keep.put([{ key: headerKey, bytes: encodeHeader(cache.header) }]);
  let index = 0;
  for await (const { bytes } of cache.blocks()) await keep.put([{ key: blockKey(index++), bytes }], { durable: true });
  return StoredCache.open(keep, cache.header, cache.name);
}

export async function deleteCache(keep: Keep): Promise<void> {
  // Blocks first: what is left of a deletion cut short is a shorter cache, never blocks without a header.
  await keep.delete((await keep.keys(blockPrefix)).reverse());
  await keep.delete([headerKey]);
}

const meanings: Partial<Record<keyof CacheHeader, string>> = {
  tokenizer_hash: 'it was made with another tokenizer',
  dataset_hash: 'it was made from other rows',
  vocab_size: 'its vocabulary has another size',
  teacher: 'another teacher made it',
};

/** Throws where a field that is expected differs. */
export function refuseOther(header: CacheHeader, expected: Partial<CacheHeader>, name: string): void {
  for (const field of Object.keys(expected) as (keyof CacheHeader)[]) {
    const [is, wanted] = [JSON.stringify(header[field]), JSON.stringify(expected[field])];
    if (wanted === undefined || is === wanted) continue;
    throw new InputError(name, `header.${field}`, `${meanings[field] ?? 'it differs'}: ${is}`, wanted);
  }
}

/** Reading, given the blocks' heads and a way to a block's bytes. */
export class BlockReader implements LogitCache {
  /** Decoded blocks by index, the latest used last. */
  private readonly decoded = new Map<number, CacheRow[]>();
  private decodedBytes = 0;

  constructor(
    readonly name: string,
    readonly header: CacheHeader,
    protected readonly heads: BlockHead[],
    private readonly blockAt: (index: number) => Promise<Uint8Array<ArrayBuffer> | undefined>,
  ) {}

  get rows(): number {
    const last = this.heads.at(-1);
    return last === undefined ? 0 : last.firstRow + last.rows;
  }

  get positions(): number {
    return this.heads.reduce((sum, head) => sum + head.positions, 0);
  }

  get bytes(): number {
    return this.heads.reduce((sum, head) => sum + head.payloadBytes, 0);
  }

  massKept(temperature: number): number {
    const t = this.header.temperatures.indexOf(temperature);
    if (t < 0) {
      const declared = this.header.temperatures.join(', ');
      throw new InputError(this.name, 'header.temperatures', `${temperature} is not among them`, declared);
    }
    const mass = this.heads.reduce((sum, head) => sum + head.mass[t]!, 0);
    return this.positions === 0 ? 0 : mass / this.positions;
  }

  async read(row: number): Promise<CacheRow> {
    if (!Number.isInteger(row) || row < 0 || row >= this.rows) {
      throw new InputError(this.name, `row ${row}`, `the cache has ${this.rows} rows`, 'a row that it has');
    }
    let low = 0;
    let high = this.heads.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.heads[middle]!.firstRow <= row) low = middle;
      else high = middle - 1;
    }
    return (await this.block(low))[row - this.heads[low]!.firstRow]!;
  }

  async *blocks(): AsyncGenerator<{ head: BlockHead; bytes: Uint8Array<ArrayBuffer> }, void, undefined> {
    for (let index = 0; index < this.heads.length; index++) {
      yield { head: this.heads[index]!, bytes: await this.undamaged(index) };
    }
  }

  private async undamaged(index: number): Promise<Uint8Array<ArrayBuffer>> {
    const { firstRow, rows, payloadCrc } = this.heads[index]!;
    const bytes = await this.blockAt(index);
    const head = bytes && undamagedHead(bytes, this.header);
    if (bytes === undefined || head?.payloadCrc !== payloadCrc || head.firstRow !== firstRow || head.rows !== rows) {
      const what = bytes ? 'their checksum differs' : 'they are gone';
      throw new InputError(this.name, `rows ${firstRow} to ${firstRow + rows - 1}`, what, 'an undamaged cache');
    }
    return bytes;
  }

  private async block(index: number): Promise<CacheRow[]> {
    const ready = this.decoded.get(index);
    if (ready !== undefined) {
      this.decoded.delete(index);
      this.decoded.set(index, ready);
      return ready;
    }
    const rows = decodeBlock(await this.undamaged(index), this.heads[index]!, this.header, this.name);
    if (!this.decoded.has(index)) {
      this.decoded.set(index, rows);
      this.decodedBytes += this.decodedSize(index);
    }
    for (const oldest of this.decoded.keys()) {
      if (this.decodedBytes <= keptBytes || oldest === index) break;
      this.decoded.delete(oldest);
      this.decodedBytes -= this.decodedSize(oldest);
    }
    return rows;
  }

  private decodedSize(index: number): number {
    return this.heads[index]!.positions * 4 * (1 + 2 * this.header.k + this.header.temperatures.length);
  }
}

class StoredCache extends BlockReader implements WritableLogitCache {
  private writing = false;
  /** Keys of blocks that lie behind the last good one and go with the next append. */
  private stale: string[] = [];

  private constructor(
    private readonly keep: Keep,
    header: CacheHeader,
    name: string,
  ) {
    super(name, header, [], (index) => keep.get(blockKey(index)));
  }

  /** Every block is checked: what follows a damaged one is as good as unwritten. */
  static async open(keep: Keep, header: CacheHeader, name: string): Promise<StoredCache> {
    const cache = new StoredCache(keep, header, name);
    const keys = await keep.keys(blockPrefix);
    for (const [index, key] of keys.sort().entries()) {
      const bytes = key === blockKey(index) ? await keep.get(key) : undefined;
      const head = bytes && undamagedHead(bytes, header);
      if (head === undefined || head.firstRow !== cache.rows || head.rows === 0) {
        cache.stale = keys.slice(index);
        break;
      }
      cache.heads.push(head);
    }
    return cache;
  }

  async append(rows: readonly CacheRow[]): Promise<void> {
    if (this.writing) throw new Error(`${this.name}: rows are being appended already`);
    const bad = rows.findIndex((row) => !isWholesome(row, this.header));
    if (bad >= 0) throw new Error(`${this.name}: row ${this.rows + bad} does not fit the header`);
    this.writing = true;
    try {
      if (this.stale.length > 0) await this.keep.delete(this.stale.reverse());
      this.stale = [];
      const wordsOfPosition = 1 + 2 * this.header.k + this.header.temperatures.length;
      for (let from = 0; from < rows.length;) {
        let to = from;
        for (let bytes = 0; to < rows.length && bytes < blockBytes; to++) {
          bytes += 4 * (1 + rows[to]!.positions.length * wordsOfPosition);
        }
        const block = encodeBlock(this.rows, rows.slice(from, to), this.header);
        await this.keep.put([{ key: blockKey(this.heads.length), bytes: block }], { durable: true });
        this.heads.push(undamagedHead(block, this.header)!);
        from = to;
      }
    } finally {
      this.writing = false;
    }
  }
}
