/**
 * A logit cache as one file: the bytes of header and blocks as they are kept, then an index for random access.
 *
 *   index   "SRIX" · u32 blocks · for each: u64 where it starts, its head · u64 where the index starts
 *           · u32 CRC of all of the index before · "SREN"
 */
import type { ByteSource } from './byte-source.ts';
import { crc32 } from './crc32.ts';
import { InputError } from './input-error.ts';
import type { Keep } from './keep.ts';
import {
  blockHeadBytes,
  decodeBlock,
  decodeBlockHead,
  decodeHeader,
  encodeHeader,
  headerLength,
  headerStart,
  type BlockHead,
  type CacheHeader,
} from './logit-cache-format.ts';
import {
  BlockReader,
  refuseOther,
  storeCache,
  type CacheExpectation,
  type LogitCache,
  type WritableLogitCache,
} from './logit-cache.ts';

const indexMagic = 0x58495253; // "SRIX"
const endMagic = 0x4e455253; // "SREN"
const indexEnd = 16;

/** The file in pieces, in order. */
export async function* exportFile(cache: LogitCache): AsyncGenerator<Uint8Array<ArrayBuffer>, void, undefined> {
  const header = encodeHeader(cache.header);
  yield header;
  const headBytes = blockHeadBytes(cache.header);
  const entries: { start: number; head: Uint8Array }[] = [];
  let at = header.length;
  for await (const { bytes } of cache.blocks()) {
    entries.push({ start: at, head: bytes.slice(0, headBytes) });
    at += bytes.length;
    yield bytes;
  }
  const index = new Uint8Array(8 + entries.length * (8 + headBytes) + indexEnd);
  const view = new DataView(index.buffer);
  view.setUint32(0, indexMagic, true);
  view.setUint32(4, entries.length, true);
  for (const [i, { start, head }] of entries.entries()) {
    const entry = 8 + i * (8 + headBytes);
    view.setBigUint64(entry, BigInt(start), true);
    index.set(head, entry + 8);
  }
  view.setBigUint64(index.length - indexEnd, BigInt(at), true);
  view.setUint32(index.length - 8, crc32(index.subarray(0, index.length - 8)), true);
  view.setUint32(index.length - 4, endMagic, true);
  yield index;
}

/** A cache file read where it lies; a block is checked when a row of it is read. */
export async function openCacheFile(source: ByteSource, expected: CacheExpectation = {}): Promise<LogitCache> {
  const refuse = (place: string, what: string, allowed: string) => new InputError(source.name, place, what, allowed);
  const whole = 'a whole cache file: it may be cut short';
  if (source.size < headerStart + indexEnd) throw refuse('', `it has ${source.size} bytes`, whole);
  const headerEnd = headerLength(await source.read(0, headerStart), source.name);
  if (headerEnd > source.size) throw refuse('header', `it would end at byte ${headerEnd} of ${source.size}`, whole);
  const header = decodeHeader(await source.read(0, headerEnd), source.name);
  refuseOther(header, expected, source.name);
  const { starts, heads } = await readIndex(source, header, headerEnd);
  const headBytes = blockHeadBytes(header);
  return new BlockReader(source.name, header, heads, (index) =>
    source.read(starts[index]!, starts[index]! + headBytes + heads[index]!.payloadBytes),
  );
}

async function readIndex(
  source: ByteSource,
  header: CacheHeader,
  headerEnd: number,
): Promise<{ starts: number[]; heads: BlockHead[] }> {
  const refuse = (what: string) =>
    new InputError(source.name, 'index', what, 'a whole cache file: it may be cut short');
  const tail = await source.read(source.size - indexEnd, source.size);
  const tailView = new DataView(tail.buffer, tail.byteOffset, indexEnd);
  const indexStart = Number(tailView.getBigUint64(0, true));
  if (tailView.getUint32(12, true) !== endMagic) throw refuse('the file does not end with one');
  if (indexStart < headerEnd || indexStart + 8 + indexEnd > source.size) throw refuse('it lies outside the file');
  const index = await source.read(indexStart, source.size);
  const view = new DataView(index.buffer, index.byteOffset, index.length);
  const headBytes = blockHeadBytes(header);
  const count = view.getUint32(4, true);
  if (view.getUint32(0, true) !== indexMagic || index.length !== 8 + count * (8 + headBytes) + indexEnd) {
    throw refuse('it is not of the size it claims');
  }
  if (crc32(index.subarray(0, index.length - 8)) !== view.getUint32(index.length - 8, true)) {
    throw refuse('its checksum differs');
  }
  const starts: number[] = [];
  const heads: BlockHead[] = [];
  let expectedStart = headerEnd;
  let expectedRow = 0;
  for (let i = 0; i < count; i++) {
    const entry = 8 + i * (8 + headBytes);
    const start = Number(view.getBigUint64(entry, true));
    const head = decodeBlockHead(index.subarray(entry + 8, entry + 8 + headBytes), header);
    if (head === undefined || start !== expectedStart || head.firstRow !== expectedRow || head.rows === 0) {
      throw refuse(`its entry ${i} does not follow the one before`);
    }
    starts.push(start);
    heads.push(head);
    expectedStart += headBytes + head.payloadBytes;
    expectedRow += head.rows;
  }
  if (expectedStart !== indexStart) throw refuse('its blocks do not fill the file');
  return { starts, heads };
}

/** Takes a cache file into a keep, byte for byte; every block is checked first, so nothing is kept of a bad file. */
export async function importFile(
  keep: Keep,
  source: ByteSource,
  expected: CacheExpectation = {},
): Promise<WritableLogitCache> {
  const file = await openCacheFile(source, expected);
  for await (const { head, bytes } of file.blocks()) decodeBlock(bytes, head, file.header, source.name);
  return storeCache(keep, file);
}
