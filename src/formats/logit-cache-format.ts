/**
 * The bytes of a logit cache, the same in a store and in one file: a header, then blocks that stand alone.
 *
 *   header  "SRLOGITS" · u32 version · u32 length · JSON of that length · u32 CRC of all before
 *   block   head · payload (in the header's coding)
 *   head    "SRBK" · u32 first row · u32 rows · u32 positions · u32 payload bytes · u32 CRC of the payload
 *           · f64 for each temperature: Σ over positions of the probability that the entries hold · u32 CRC of all before
 *
 * All numbers little-endian.
 */
import { crc32 } from './crc32.ts';
import { codings, plainCoding, type CacheRow } from './logit-cache-coding.ts';
import { InputError } from './input-error.ts';
import { isJsonObject, parseStrictJson } from './strict-json.ts';

export interface CacheHeader {
  /** Who spoke, in words, and a hash of its weights (of an endpoint: of its address and model name). */
  readonly teacher: { readonly identity: string; readonly hash: string };
  readonly tokenizer_hash: string;
  /** Over the token ids and targets of every row, in order. */
  readonly dataset_hash: string;
  readonly vocab_size: number;
  /** Most entries a position; of a cache made by sampling the draws. */
  readonly k: number;
  /** Those at which log_z is kept; 1 is always among them. */
  readonly temperatures: readonly number[];
  /** The k largest, or k draws of the teacher's whole distribution (engine/ops/linear-sample/draw.ts says from what). */
  readonly entries: 'topk' | 'sampling';
  /** What the teacher computed in. */
  readonly dtype: string;
  /** Number of the coding of blocks. */
  readonly coding: number;
}

export interface BlockHead {
  readonly firstRow: number;
  readonly rows: number;
  readonly positions: number;
  readonly payloadBytes: number;
  readonly payloadCrc: number;
  /** Σ over positions of the probability that the entries hold, for each temperature. */
  readonly mass: readonly number[];
}

const version = 1;
/** How a cache file begins. */
export const cacheMagic = 'SRLOGITS';
const blockMagic = 0x4b425253; // "SRBK"
const largestHeader = 1024 * 1024;
const mostTemperatures = 64;

/** What every piece of a cache file needs at its front, to know how much more to read. */
export const headerStart = 16;

/** A header whose coding may be left out: plain. */
export function completeHeader(given: Omit<CacheHeader, 'coding'> & { coding?: number }): CacheHeader {
  return { ...given, coding: given.coding ?? plainCoding };
}

export function encodeHeader(header: CacheHeader): Uint8Array<ArrayBuffer> {
  const json = new TextEncoder().encode(JSON.stringify(checkHeader(header, 'logit cache')));
  const bytes = new Uint8Array(headerStart + json.length + 4);
  const view = new DataView(bytes.buffer);
  bytes.set(new TextEncoder().encode(cacheMagic));
  view.setUint32(8, version, true);
  view.setUint32(12, json.length, true);
  bytes.set(json, headerStart);
  view.setUint32(headerStart + json.length, crc32(bytes.subarray(0, headerStart + json.length)), true);
  return bytes;
}

/** Bytes of the whole header, from its first 16. */
export function headerLength(start: Uint8Array, file: string): number {
  const refuse = (what: string, allowed: string) => new InputError(file, 'header', what, allowed);
  if (start.length < headerStart || new TextDecoder('latin1').decode(start.subarray(0, 8)) !== cacheMagic) {
    throw refuse(`it does not start with ${cacheMagic}`, 'a logit cache of Stillroom');
  }
  const view = new DataView(start.buffer, start.byteOffset, headerStart);
  if (view.getUint32(8, true) !== version) {
    throw refuse(`it is of version ${view.getUint32(8, true)}`, `version ${version}: a newer Stillroom wrote it`);
  }
  const length = view.getUint32(12, true);
  if (length > largestHeader) throw refuse(`it claims ${length} bytes`, `at most ${largestHeader}`);
  return headerStart + length + 4;
}

export function decodeHeader(bytes: Uint8Array, file: string): CacheHeader {
  const refuse = (what: string, allowed: string) => new InputError(file, 'header', what, allowed);
  const end = headerLength(bytes, file) - 4;
  if (bytes.length !== end + 4) throw refuse(`it has ${bytes.length} bytes and not ${end + 4}`, 'a whole header');
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  if (view.getUint32(end, true) !== crc32(bytes.subarray(0, end)))
    throw refuse('its checksum differs', 'an undamaged one');
  let json: unknown;
  try {
    json = parseStrictJson(new TextDecoder('utf-8', { fatal: true }).decode(bytes.subarray(headerStart, end)));
  } catch (error) {
    throw refuse(`it is not valid: ${(error as Error).message}`, 'JSON in UTF-8');
  }
  return checkHeader(json, file);
}

function checkHeader(json: unknown, file: string): CacheHeader {
  const refuse = (field: string, value: unknown, allowed: string) =>
    new InputError(file, `header.${field}`, `it is ${(JSON.stringify(value) ?? 'missing').slice(0, 80)}`, allowed);
  if (!isJsonObject(json)) throw new InputError(file, 'header', 'it is no object', 'an object');
  const { teacher, tokenizer_hash, dataset_hash, vocab_size, k, temperatures, entries, dtype, coding } = json;
  const isText = (value: unknown): value is string => typeof value === 'string';
  const isCount = (value: unknown): value is number =>
    typeof value === 'number' && Number.isSafeInteger(value) && value >= 1 && value < 2 ** 31;
  if (!isJsonObject(teacher) || !isText(teacher.identity) || !isText(teacher.hash)) {
    throw refuse('teacher', teacher, 'an object of identity and hash');
  }
  if (!isText(tokenizer_hash)) throw refuse('tokenizer_hash', tokenizer_hash, 'a string');
  if (!isText(dataset_hash)) throw refuse('dataset_hash', dataset_hash, 'a string');
  if (!isCount(vocab_size)) throw refuse('vocab_size', vocab_size, 'a whole number from 1');
  if (!isCount(k) || k > vocab_size) throw refuse('k', k, `a whole number from 1 to vocab_size, ${vocab_size}`);
  const isTemperature = (value: unknown): value is number =>
    typeof value === 'number' && Number.isFinite(value) && value > 0;
  if (
    !Array.isArray(temperatures) ||
    temperatures.length > mostTemperatures ||
    !temperatures.every(isTemperature) ||
    !temperatures.includes(1) ||
    new Set(temperatures).size !== temperatures.length
  ) {
    throw refuse('temperatures', temperatures, `different numbers above 0, 1 among them, at most ${mostTemperatures}`);
  }
  if (entries !== 'topk' && entries !== 'sampling') throw refuse('entries', entries, '"topk" or "sampling"');
  if (!isText(dtype)) throw refuse('dtype', dtype, 'a string');
  if (!isCount(coding) || !Object.hasOwn(codings, coding)) {
    throw refuse('coding', coding, Object.keys(codings).join(', '));
  }
  return {
    teacher: { identity: teacher.identity, hash: teacher.hash },
    tokenizer_hash,
    dataset_hash,
    vocab_size,
    k,
    temperatures,
    entries,
    dtype,
    coding,
  };
}

export const blockHeadBytes = (header: CacheHeader): number => 28 + 8 * header.temperatures.length;

/** A whole block: head and payload. */
export function encodeBlock(firstRow: number, rows: readonly CacheRow[], header: CacheHeader): Uint8Array<ArrayBuffer> {
  const payload = codings[header.coding]!.encode(rows, header);
  const headBytes = blockHeadBytes(header);
  const block = new Uint8Array(headBytes + payload.length);
  const view = new DataView(block.buffer);
  const positions = rows.reduce((sum, row) => sum + row.positions.length, 0);
  view.setUint32(0, blockMagic, true);
  view.setUint32(4, firstRow, true);
  view.setUint32(8, rows.length, true);
  view.setUint32(12, positions, true);
  view.setUint32(16, payload.length, true);
  view.setUint32(20, crc32(payload), true);
  massOf(rows, header).forEach((mass, t) => view.setFloat64(24 + 8 * t, mass, true));
  view.setUint32(headBytes - 4, crc32(block.subarray(0, headBytes - 4)), true);
  block.set(payload, headBytes);
  return block;
}

function massOf(rows: readonly CacheRow[], { k, temperatures }: CacheHeader): number[] {
  return temperatures.map((temperature, t) => {
    let mass = 0;
    for (const { positions, ids, logits, log_z } of rows) {
      for (let p = 0; p < positions.length; p++) {
        const z = log_z[p * temperatures.length + t]!;
        for (let i = p * k; i < (p + 1) * k; i++) {
          const again = i > p * k && ids[i] === ids[i - 1]; // drawn once more
          if (ids[i]! >= 0 && !again) mass += Math.exp(logits[i]! / temperature - z);
        }
      }
    }
    return mass;
  });
}

/** undefined where the bytes are no undamaged head. */
export function decodeBlockHead(bytes: Uint8Array, header: CacheHeader): BlockHead | undefined {
  const length = blockHeadBytes(header);
  if (bytes.length < length) return undefined;
  const view = new DataView(bytes.buffer, bytes.byteOffset, length);
  if (view.getUint32(0, true) !== blockMagic) return undefined;
  if (view.getUint32(length - 4, true) !== crc32(bytes.subarray(0, length - 4))) return undefined;
  const mass = header.temperatures.map((_, t) => view.getFloat64(24 + 8 * t, true));
  if (!mass.every((sum) => Number.isFinite(sum) && sum >= 0)) return undefined;
  return {
    firstRow: view.getUint32(4, true),
    rows: view.getUint32(8, true),
    positions: view.getUint32(12, true),
    payloadBytes: view.getUint32(16, true),
    payloadCrc: view.getUint32(20, true),
    mass,
  };
}

/** undefined where the block is cut or damaged. */
export function undamagedHead(block: Uint8Array, header: CacheHeader): BlockHead | undefined {
  const head = decodeBlockHead(block, header);
  const payload = block.subarray(blockHeadBytes(header));
  if (head === undefined || head.payloadBytes !== payload.length) return undefined;
  return head.payloadCrc === crc32(payload) ? head : undefined;
}

/** Rows of an undamaged block; a checksum can be forged, so the values are looked at as well. */
export function decodeBlock(block: Uint8Array, head: BlockHead, header: CacheHeader, file: string): CacheRow[] {
  const refuse = (what: string) =>
    new InputError(
      file,
      `rows ${head.firstRow} to ${head.firstRow + head.rows - 1}`,
      what,
      'a cache as it was written',
    );
  if (head.rows > head.payloadBytes) throw refuse('their block is too short for them');
  const rows = codings[header.coding]!.decode(block.subarray(blockHeadBytes(header)), head.rows, header);
  if (rows === undefined) throw refuse('their block does not decode');
  let positions = 0;
  for (const row of rows) {
    if (!isWholesome(row, header)) throw refuse('positions, ids or logits are out of bounds');
    positions += row.positions.length;
  }
  if (positions !== head.positions) throw refuse('their count of positions differs');
  return rows;
}

/** Shapes that fit the header, rising positions, ids inside the vocabulary, finite numbers; every draw there, in order. */
export function isWholesome({ positions, ids, logits, log_z }: CacheRow, header: CacheHeader): boolean {
  const { k, temperatures, vocab_size, entries } = header;
  if (ids.length !== positions.length * k || logits.length !== ids.length) return false;
  if (log_z.length !== positions.length * temperatures.length) return false;
  for (let p = 0; p < positions.length; p++) if (positions[p]! < (p === 0 ? 0 : positions[p - 1]! + 1)) return false;
  for (let i = 0; i < ids.length; i++) {
    if (ids[i]! < -1 || ids[i]! >= vocab_size || !Number.isFinite(logits[i]!)) return false;
    if (entries === 'sampling' && ids[i]! < (i % k === 0 ? 0 : ids[i - 1]!)) return false;
  }
  return log_z.every(Number.isFinite);
}
