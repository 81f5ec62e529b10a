/**
 * Reading a zip whose entries are stored, not compressed, as our own backups are (client-zip writes them): the central
 * directory at the end says where each entry lies, and an entry is then a range of the file. Zip64 where sizes need it.
 * Source: PKWARE APPNOTE 6.3.10, §4.3.
 */
import type { ByteSource } from '../formats/byte-source.ts';
import { InputError } from '../formats/input-error.ts';

interface ZipEntry {
  readonly bytes: number;
  /** Of the local header. */
  readonly offset: number;
}

export interface Zip {
  readonly entries: ReadonlyMap<string, ZipEntry>;
  /** An entry as bytes of its own. */
  open(name: string): Promise<ByteSource | undefined>;
}

const END = 0x06054b50;
const END64 = 0x06064b50;
const END64_LOCATOR = 0x07064b50;
const DIRECTORY_ENTRY = 0x02014b50;
const LOCAL_HEADER = 0x04034b50;
/** A directory larger than this is no backup: a run has some hundred files. */
const LARGEST_DIRECTORY = 64 * 1024 * 1024;

export async function openZip(file: ByteSource): Promise<Zip> {
  const { start, size } = await findDirectory(file);
  const directory = view(await file.read(start, start + size));
  const entries = new Map<string, ZipEntry>();
  for (let at = 0; at < size;) {
    if (at + 46 > size || directory.getUint32(at, true) !== DIRECTORY_ENTRY)
      throw wrong(file, 'its directory is broken');
    const nameLength = directory.getUint16(at + 28, true);
    const extraLength = directory.getUint16(at + 30, true);
    const next = at + 46 + nameLength + extraLength + directory.getUint16(at + 32, true);
    if (next > size) throw wrong(file, 'its directory is cut short');
    const name = new TextDecoder().decode(new Uint8Array(directory.buffer, directory.byteOffset + at + 46, nameLength));
    if (directory.getUint16(at + 10, true) !== 0) throw wrong(file, `${name} is compressed`);
    const entry = sizes(directory, at, at + 46 + nameLength, extraLength);
    if (!entry || entry.offset + entry.bytes > start) throw wrong(file, `${name} reaches beyond the file`);
    if (entries.has(name)) throw wrong(file, `${name} is there twice`);
    entries.set(name, entry);
    at = next;
  }
  return {
    entries,
    async open(name) {
      const entry = entries.get(name);
      if (!entry) return undefined;
      const header = view(await file.read(entry.offset, entry.offset + 30));
      if (header.getUint32(0, true) !== LOCAL_HEADER) throw wrong(file, `${name} is not where the directory says`);
      const base = entry.offset + 30 + header.getUint16(26, true) + header.getUint16(28, true);
      if (base + entry.bytes > start) throw wrong(file, `${name} reaches beyond the file`);
      return {
        name: `${file.name}/${name}`,
        size: entry.bytes,
        read(from, to) {
          if (from < 0 || to > entry.bytes || from > to) throw new RangeError(`${name}: bytes ${from} to ${to}`);
          return file.read(base + from, base + to);
        },
      };
    },
  };
}

async function findDirectory(file: ByteSource): Promise<{ start: number; size: number }> {
  // A comment of up to 65,535 bytes may follow the end record.
  const tailStart = Math.max(0, file.size - 22 - 0xffff);
  const tail = view(await file.read(tailStart, file.size));
  for (let at = tail.byteLength - 22; at >= 0; at--) {
    if (tail.getUint32(at, true) !== END) continue;
    let size = tail.getUint32(at + 12, true);
    let start = tail.getUint32(at + 16, true);
    if (at >= 20 && tail.getUint32(at - 20, true) === END64_LOCATOR) {
      const end64 = Number(tail.getBigUint64(at - 12, true));
      if (end64 + 56 > file.size) break;
      const record = view(await file.read(end64, end64 + 56));
      if (record.getUint32(0, true) !== END64) break;
      size = Number(record.getBigUint64(40, true));
      start = Number(record.getBigUint64(48, true));
    }
    if (start + size > file.size || size > LARGEST_DIRECTORY) break;
    return { start, size };
  }
  throw wrong(file, 'it is no zip file, or its end is missing');
}

/** undefined where a Zip64 field is missing or absurd. */
function sizes(directory: DataView, at: number, extra: number, extraLength: number): ZipEntry | undefined {
  let bytes = directory.getUint32(at + 24, true);
  let offset = directory.getUint32(at + 42, true);
  const compressed = directory.getUint32(at + 20, true);
  for (let e = extra; e + 4 <= extra + extraLength; e += 4 + directory.getUint16(e + 2, true)) {
    if (directory.getUint16(e, true) !== 1) continue;
    // The fields that say 0xffffffff are here, in this order.
    const end = Math.min(e + 4 + directory.getUint16(e + 2, true), extra + extraLength);
    let field = e + 4;
    const next = (): number => {
      if (field + 8 > end) return NaN;
      field += 8;
      return Number(directory.getBigUint64(field - 8, true));
    };
    if (bytes === 0xffffffff) bytes = next();
    if (compressed === 0xffffffff) next();
    if (offset === 0xffffffff) offset = next();
  }
  return Number.isSafeInteger(bytes) && Number.isSafeInteger(offset) ? { bytes, offset } : undefined;
}

const view = (bytes: Uint8Array): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

const wrong = (file: ByteSource, what: string): InputError =>
  new InputError(file.name, '', what, 'a backup that Stillroom wrote');
