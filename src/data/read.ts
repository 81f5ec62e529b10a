/**
 * Bytes ─▶ records, one at a time: JSON Lines, a JSON array, or lines of plain text, gzipped or not. The file is never
 * held whole: what is in memory is a chunk and one record, and a record may be 10 MB at most. What cannot be read comes
 * as a problem with its line; reading goes on after it where it can, so that inspect shows more than the first.
 */
import type { ByteSource } from '../formats/byte-source.ts';
import { InputError } from '../formats/input-error.ts';
import { isJsonObject, type JsonObject } from '../formats/strict-json.ts';
import type { Problem } from './row.ts';

export type ReadRecord =
  { readonly line: number; readonly value: JsonObject } | { readonly line: number; readonly problem: Problem };

export const LONGEST_RECORD = 10 * 1024 * 1024;
/** Of a gzipped file; beyond it the file is more likely a bomb than a dataset for a laptop. */
const MOST_UNPACKED = 8 * 1024 ** 3;
const CHUNK = 1024 * 1024;
const ALLOWED = 'one JSON object a line, or a JSON array of objects';

const [NEWLINE, QUOTE, BACKSLASH, COMMA] = [0x0a, 0x22, 0x5c, 0x2c];
const [OPEN_BRACE, CLOSE_BRACE, OPEN_BRACKET, CLOSE_BRACKET] = [0x7b, 0x7d, 0x5b, 0x5d];
const isBlank = (byte: number) => byte === 0x20 || byte === 0x09 || byte === 0x0d || byte === NEWLINE;

/** @param chunk bytes asked of the source at a time; tests make it small */
export async function* readRecords(source: ByteSource, chunk = CHUNK): AsyncGenerator<ReadRecord> {
  if (source.size === 0) throw new InputError(source.name, '', 'is empty', ALLOWED);
  const chunks = withoutMark(await unpacked(source, chunk));
  const peeked = await firstByte(chunks);
  if (peeked === undefined) throw new InputError(source.name, '', 'holds only blanks', ALLOWED);
  const rest = resume(peeked.chunks, chunks);
  if (peeked.byte === OPEN_BRACKET) yield* readArray(rest, source.name);
  else if (/\.txt(\.gz)?$/i.test(source.name)) yield* readText(rest);
  else yield* readLines(rest, parseLine);
}

type Bytes = Uint8Array<ArrayBuffer>;
type Chunks = AsyncGenerator<Bytes>;

async function* chunksOf(source: ByteSource, chunk: number): Chunks {
  for (let at = 0; at < source.size; at += chunk) yield await source.read(at, Math.min(at + chunk, source.size));
}

/** Ungzips where the first bytes say so. */
async function unpacked(source: ByteSource, chunk: number): Promise<Chunks> {
  const head = await source.read(0, Math.min(2, source.size));
  if (head[0] !== 0x1f || head[1] !== 0x8b) return chunksOf(source, chunk);
  return gunzip(source, chunk);
}

async function* gunzip(source: ByteSource, chunk: number): Chunks {
  const packed = chunksOf(source, chunk);
  const stream = new ReadableStream<Bytes>({
    async pull(controller) {
      const { done, value } = await packed.next();
      if (done) controller.close();
      else controller.enqueue(value);
    },
  }).pipeThrough(new DecompressionStream('gzip'));
  const reader = stream.getReader();
  try {
    for (let size = 0; ;) {
      const { done, value } = await reader.read().catch(() => {
        throw new InputError(source.name, '', 'is a gzip file that is cut or damaged', 'a whole file');
      });
      if (done) return;
      size += value.byteLength;
      if (size > MOST_UNPACKED) {
        throw new InputError(source.name, '', `unpacks to more than ${MOST_UNPACKED / 1024 ** 3} GB`, 'a smaller file');
      }
      yield value as Bytes;
    }
  } finally {
    // A reader that stops early leaves the stream half read; a damaged one has already said so.
    await reader.cancel().catch(() => undefined);
  }
}

/** Drops a UTF-8 byte order mark. */
async function* withoutMark(chunks: Chunks): Chunks {
  const mark = [0xef, 0xbb, 0xbf];
  for await (let chunk of chunks) {
    while (chunk.length > 0 && chunk[0] === mark[0]) {
      mark.shift();
      chunk = chunk.subarray(1);
    }
    if (chunk.length === 0) continue;
    mark.length = 0;
    yield chunk;
  }
}

/** The first byte that is no blank, and the chunks read on the way to it. */
async function firstByte(chunks: Chunks): Promise<{ byte: number; chunks: Bytes[] } | undefined> {
  const read: Bytes[] = [];
  for (let size = 0; size < LONGEST_RECORD;) {
    const { done, value } = await chunks.next();
    if (done) return undefined;
    read.push(value);
    size += value.length;
    const byte = value.find((each) => !isBlank(each));
    if (byte !== undefined) return { byte, chunks: read };
  }
  return undefined;
}

async function* resume(first: Bytes[], rest: Chunks): Chunks {
  yield* first;
  yield* rest;
}

type Parse = (text: string, line: number, last: boolean) => ReadRecord;

/** Calls parse for every line that is not blank. */
async function* readLines(chunks: Chunks, parse: Parse): AsyncGenerator<ReadRecord> {
  const record = new Gathered();
  let line = 1;
  const finish = (last: boolean): ReadRecord[] => {
    const text = record.take(line);
    if (typeof text !== 'string') return [text];
    return text.trim() === '' ? [] : [parse(text, line, last)];
  };
  for await (const chunk of chunks) {
    let from = 0;
    for (;;) {
      const end = chunk.indexOf(NEWLINE, from);
      record.add(chunk.subarray(from, end < 0 ? chunk.length : end));
      if (end < 0) break;
      yield* finish(false);
      line++;
      from = end + 1;
    }
  }
  yield* finish(true);
}

/** Lines of a .txt are rows of text. */
const readText = (chunks: Chunks) =>
  readLines(chunks, (text, line) => ({ line, value: { text: text.replace(/\r$/, '') } }));

function parseLine(text: string, line: number, last: boolean): ReadRecord {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    const cut = last && /end of JSON|Unterminated|Unexpected end/i.test(String(error));
    const what = cut ? 'is cut in the middle of a row' : `is not JSON: ${shown(text)}`;
    return { line, problem: { line, what, allowed: 'one JSON object a line' } };
  }
  if (!isJsonObject(value)) {
    return { line, problem: { line, what: `is not a JSON object: ${shown(text)}`, allowed: 'one JSON object a line' } };
  }
  return { line, value };
}

function shown(text: string): string {
  const short = text.trim();
  return short.length > 60 ? `${short.slice(0, 57)}…` : short;
}

/** Finds the elements of the outermost array by counting brackets outside strings, and parses each alone. */
async function* readArray(chunks: Chunks, name: string): AsyncGenerator<ReadRecord> {
  const record = new Gathered();
  let line = 1;
  let depth = 0;
  let inString = false;
  let escaped = false;
  let startLine = 0;
  let ended = false;
  const problem = (at: number, what: string, allowed: string): ReadRecord => ({
    line: at,
    problem: { line: at, what, allowed },
  });
  const finish = (): ReadRecord => {
    const at = startLine;
    startLine = 0;
    const text = record.take(at);
    return typeof text === 'string' ? parseLine(text, at, false) : text;
  };
  for await (const chunk of chunks) {
    let from = 0;
    for (let i = 0; i < chunk.length; i++) {
      const byte = chunk[i]!;
      if (byte === NEWLINE) line++;
      if (inString) {
        if (escaped) escaped = false;
        else if (byte === BACKSLASH) escaped = true;
        else if (byte === QUOTE) inString = false;
        continue;
      }
      if (isBlank(byte)) continue;
      if (ended) {
        yield problem(line, 'has something after the array', 'a JSON array and nothing else');
        return;
      }
      const closes = byte === CLOSE_BRACE || byte === CLOSE_BRACKET;
      if (depth === 1 && (byte === COMMA || closes)) {
        if (startLine > 0) {
          record.add(chunk.subarray(from, i));
          yield finish();
        }
        if (byte === CLOSE_BRACE) {
          yield problem(line, 'has a } too many', 'a JSON array of objects');
          return;
        }
        if (closes) ended = true;
        continue;
      }
      if (byte === OPEN_BRACE || byte === OPEN_BRACKET) depth++;
      else if (closes) depth--;
      else if (byte === QUOTE) inString = true;
      if (startLine === 0 && !(depth === 1 && byte === OPEN_BRACKET)) {
        startLine = line;
        from = i;
      }
    }
    if (startLine > 0) record.add(chunk.subarray(from));
  }
  if (!ended) yield problem(line, 'is cut in the middle of the array', `a JSON array that ends; is ${name} whole?`);
}

/** The bytes of one record, gathered over chunks; what is too long is dropped but for its length. */
class Gathered {
  private parts: Bytes[] = [];
  private size = 0;
  private readonly decoder = new TextDecoder('utf-8', { fatal: true });

  add(bytes: Bytes): void {
    this.size += bytes.length;
    if (this.size <= LONGEST_RECORD) this.parts.push(bytes);
    else this.parts = [];
  }

  /** The text, or the problem of the record that began on this line. */
  take(line: number): string | ReadRecord {
    const { parts, size } = this;
    this.parts = [];
    this.size = 0;
    if (size > LONGEST_RECORD) {
      const megabytes = (size / 1024 ** 2).toFixed(1);
      return {
        line,
        problem: { line, what: `is ${megabytes} MB long`, allowed: `at most ${LONGEST_RECORD / 1024 ** 2} MB a row` },
      };
    }
    const bytes = new Uint8Array(size);
    let at = 0;
    for (const part of parts) {
      bytes.set(part, at);
      at += part.length;
    }
    try {
      return this.decoder.decode(bytes);
    } catch {
      return { line, problem: { line, what: 'is not UTF-8', allowed: 'text in UTF-8' } };
    }
  }
}
