/**
 * How a block of rows becomes bytes. A cache's header names its coding by number, so a new one is a new entry here and
 * old caches stay readable. What a block decodes to is checked by its reader, whatever the coding.
 */
import type { CacheHeader } from './logit-cache-format.ts';

/** What the teacher said about one sequence, at the T positions that have a target. */
export interface CacheRow {
  /** [T], rising: the place in the sequence whose logits these are (they predict the token after it). */
  readonly positions: Int32Array;
  /**
   * [T, k]. The k largest: largest logit first; -1 fills up where a position keeps fewer than k. Of a cache made by
   * sampling all k draws, rising: a token that was drawn several times stands there as often.
   */
  readonly ids: Int32Array;
  /** [T, k]; 0 where the id is -1. */
  readonly logits: Float32Array;
  /** [T, temperatures]: log Σ exp(z / T) over the whole vocabulary, in the header's order of temperatures. */
  readonly log_z: Float32Array;
}

export interface Coding {
  encode(rows: readonly CacheRow[], header: CacheHeader): Uint8Array<ArrayBuffer>;
  /** undefined where the bytes are not that many rows. Takes no more memory than a small multiple of the bytes. */
  decode(bytes: Uint8Array, rows: number, header: CacheHeader): CacheRow[] | undefined;
}

/** One for all rows without a target: a block of nothing else must not grow a hundredfold when it is decoded. */
const emptyRow: CacheRow = {
  positions: new Int32Array(0),
  ids: new Int32Array(0),
  logits: new Float32Array(0),
  log_z: new Float32Array(0),
};

/** For each row: T, then positions, ids, logits, log_z as 4-byte numbers. */
const plain: Coding = {
  encode(rows) {
    const words = rows.reduce(
      (sum, row) => sum + 1 + row.positions.length + row.ids.length + row.logits.length + row.log_z.length,
      0,
    );
    const integers = new Int32Array(words);
    const floats = new Float32Array(integers.buffer);
    let at = 0;
    for (const { positions, ids, logits, log_z } of rows) {
      integers[at++] = positions.length;
      integers.set(positions, at);
      at += positions.length;
      integers.set(ids, at);
      at += ids.length;
      floats.set(logits, at);
      at += logits.length;
      floats.set(log_z, at);
      at += log_z.length;
    }
    return new Uint8Array(integers.buffer);
  },
  decode(bytes, count, { k, temperatures }) {
    if (bytes.length % 4 !== 0) return undefined;
    const buffer = bytes.slice().buffer;
    const integers = new Int32Array(buffer);
    const floats = new Float32Array(buffer);
    const rows: CacheRow[] = [];
    let at = 0;
    for (let row = 0; row < count; row++) {
      const length = integers[at++];
      if (length === undefined || length < 0) return undefined;
      if (length === 0) {
        rows.push(emptyRow);
        continue;
      }
      const end = at + length * (1 + 2 * k + temperatures.length);
      if (end > integers.length) return undefined;
      const idsAt = at + length;
      const logitsAt = idsAt + length * k;
      const zAt = logitsAt + length * k;
      rows.push({
        positions: integers.subarray(at, idsAt),
        ids: integers.subarray(idsAt, logitsAt),
        logits: floats.subarray(logitsAt, zAt),
        log_z: floats.subarray(zAt, end),
      });
      at = end;
    }
    return at === integers.length ? rows : undefined;
  },
};

export const plainCoding = 1;

export const codings: Readonly<Record<number, Coding>> = { [plainCoding]: plain };
