/**
 * Files behind a URL as the byte and file sources that every reader takes: Range requests, so that a header costs a
 * header; three attempts with growing pauses, counted anew where bytes have come. Of a server without ranges a small file is
 * read whole, once, and a large one forward (forward-body.ts), so that no memory has to hold it.
 */
import type { ByteSource, FileSource } from './byte-source.ts';
import { DownloadFault } from './download-fault.ts';
import { ForwardBody } from './forward-body.ts';
import { InputError } from './input-error.ts';

export interface UrlOptions {
  signal?: AbortSignal;
  /** Sent with every request. */
  headers?: Readonly<Record<string, string>>;
  /** Ask for files whole, not for ranges of them: a service worker keeps only what was whole. */
  whole?: boolean;
  /** Bytes that came in, as they come. */
  onBytes?: (bytes: number) => void;
  /** Pauses between attempts; tests pass shorter ones. */
  pausesMs?: readonly number[];
  /** Bytes up to which a file is read whole where there are no ranges; tests pass less. */
  wholeUpTo?: number;
}

/** The first request brings this much: most headers and small files whole. */
const firstRange = 64 * 1024;
/** A read is made of requests no longer than this, so that a broken one costs little to repeat. */
const largestRange = 32 * 1024 * 1024;
const wholeUpTo = 64 * 1024 * 1024;
const pauses = [500, 2000];
/** Longest that a server may ask us to wait, in milliseconds; a run that fails goes on later where it was. */
const MOST_PAUSE = 60_000;

/** undefined where the server says there is no such file. */
export async function openUrl(
  url: string,
  options: UrlOptions = {},
  name: string = url,
): Promise<ByteSource | undefined> {
  const first = await attempt(name, options, async () => {
    const response = await fetch(url, {
      headers: { ...options.headers, ...(!options.whole && { Range: `bytes=0-${firstRange - 1}` }) },
      signal: options.signal,
    });
    if (response.status === 404 || response.status === 410) return undefined;
    if (response.status === 416) return { total: 0, bytes: new Uint8Array(0) }; // an empty file has no byte 0
    check(response, name);
    // Servers of pages answer an unknown path with their start page.
    if (
      response.headers.get('content-type')?.startsWith('text/html') &&
      !/\.html?$/.test(new URL(response.url).pathname)
    ) {
      return undefined;
    }
    const length = lengthOf(response);
    if (response.status === 200 && !options.whole && length > (options.wholeUpTo ?? wholeUpTo)) {
      await response.body?.cancel();
      return { total: length };
    }
    const bytes = await body(response, options);
    if (response.status === 200) return { total: bytes.length, bytes };
    return { total: rangeTotal(response), bytes };
  });
  if (first === undefined) return undefined;
  if (first.bytes === undefined) {
    const { total: size } = first;
    const part = forward(url, name, size, options);
    return sourceOf(name, size, await part(0, Math.min(size, firstRange)), part, { in_order: true });
  }
  const { bytes } = first;
  // Another origin may hide Content-Range, but never Content-Length.
  const size = first.total ?? (bytes.length < firstRange ? bytes.length : await headSize(url, name, options));
  return sourceOf(name, size, bytes, (start, end) => readRange(url, name, start, end, size, options));
}

type Part = (start: number, end: number) => Promise<Uint8Array<ArrayBuffer>>;

/** @param prefix the first bytes, which are asked for no more */
function sourceOf(
  name: string,
  size: number,
  prefix: Uint8Array<ArrayBuffer>,
  part: Part,
  more: Pick<ByteSource, 'in_order'> = {},
): ByteSource {
  return {
    name,
    size,
    at_hand: prefix.length,
    ...more,
    async read(start, end) {
      if (start < 0 || end > size || start > end) throw new RangeError(`${name}: bytes ${start} to ${end} of ${size}`);
      if (end <= prefix.length) return prefix.slice(start, end);
      const bytes = new Uint8Array(end - start);
      bytes.set(prefix.subarray(start));
      for (let at = Math.max(start, prefix.length); at < end; at += largestRange) {
        bytes.set(await part(at, Math.min(end, at + largestRange)), at - start);
      }
      return bytes;
    },
  };
}

/** Parts of a file of which the server gives no ranges, only all of it from its beginning; one at a time. */
function forward(url: string, name: string, size: number, options: UrlOptions): Part {
  const ask = async (): Promise<Response> => {
    const response = await fetch(url, { headers: options.headers, signal: options.signal });
    check(response, name);
    if (lengthOf(response) === size) return response;
    await response.body?.cancel();
    throw new InputError(name, '', 'the file changed while it was read', 'a file at rest');
  };
  const file = new ForwardBody(ask, options.onBytes);
  const part: Part = async (start, end) => {
    const bytes = new Uint8Array(end - start);
    for (let came = 0; came < bytes.length;) {
      if (came > 0) await pause(waitsOf(options)[0]!);
      came += await attempt(name, options, () => file.read(start + came, bytes.subarray(came)));
    }
    return bytes;
  };
  let turn: Promise<unknown> = Promise.resolve();
  return (start, end) => {
    const result = turn.then(() => part(start, end));
    turn = result.catch(() => undefined);
    return result;
  };
}

/** A folder at a URL: paths are resolved against it. A server can't list it. */
export function urlFolder(url: string, options: UrlOptions = {}, name: string = url): FileSource {
  const base = url.endsWith('/') ? url : `${url}/`;
  return {
    name,
    open(path) {
      const target = new URL(path.split('/').map(encodeURIComponent).join('/'), base);
      return openUrl(target.href, options, `${name.replace(/\/$/, '')}/${path}`);
    },
  };
}

/** What a server answers as JSON, in up to three attempts. */
export function fetchJson(url: string, options: UrlOptions = {}, name: string = url): Promise<unknown> {
  return attempt(name, options, async () => {
    const response = await fetch(url, { headers: options.headers, signal: options.signal });
    check(response, name);
    return response.json();
  });
}

/** A connection that breaks in the middle costs what had not come yet: the next request begins there. */
async function readRange(
  url: string,
  name: string,
  start: number,
  end: number,
  size: number,
  options: UrlOptions,
): Promise<Uint8Array<ArrayBuffer>> {
  const bytes = new Uint8Array(end - start);
  let came = 0;
  while (came < bytes.length) {
    if (came > 0) await pause(waitsOf(options)[0]!);
    came += await attempt(name, options, async () => {
      const response = await fetch(url, {
        headers: { ...options.headers, Range: `bytes=${start + came}-${end - 1}` },
        signal: options.signal,
      });
      check(response, name);
      const total = rangeTotal(response);
      if (response.status !== 206 || (total !== undefined && total !== size)) {
        await response.body?.cancel();
        throw new InputError(
          name,
          '',
          'the file changed while it was read, or the server stopped serving ranges',
          'a server that serves ranges of one file',
        );
      }
      return fill(bytes.subarray(came), response, options);
    });
  }
  return bytes;
}

/** How many bytes came before the body ended or broke; none is an error. */
async function fill(into: Uint8Array, response: Response, options: UrlOptions): Promise<number> {
  let came = 0;
  try {
    const reader = response.body!.getReader();
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      if (value.length > into.length - came) throw new Error('more bytes came than were asked for');
      into.set(value, came);
      came += value.length;
      options.onBytes?.(value.length);
    }
    if (came === 0) throw new Error('no bytes came');
  } catch (error) {
    if (came === 0 || options.signal?.aborted) throw error;
  }
  return came;
}

async function headSize(url: string, name: string, options: UrlOptions): Promise<number> {
  return attempt(name, options, async () => {
    const response = await fetch(url, { method: 'HEAD', headers: options.headers, signal: options.signal });
    check(response, name);
    const length = Number(response.headers.get('content-length') ?? NaN);
    if (Number.isSafeInteger(length)) return length;
    throw new InputError(name, '', 'the server hides its size', 'a server that shows Content-Range or Content-Length');
  });
}

/** Of the bytes that will be read: NaN where the server does not say, or packs them for the way. */
function lengthOf({ headers }: Response): number {
  return headers.has('content-encoding') ? NaN : Number(headers.get('content-length') ?? NaN);
}

function rangeTotal(response: Response): number | undefined {
  const total = /\/(\d+)$/.exec(response.headers.get('content-range') ?? '')?.[1];
  return total === undefined ? undefined : Number(total);
}

class TryAgain extends Error {
  constructor(
    message: string,
    readonly afterMs: number | undefined,
  ) {
    super(message);
  }
}

function check(response: Response, name: string): void {
  if (response.ok) return;
  // Hugging Face says in a header which gate or revision it is about.
  const said = response.headers.get('x-error-message')?.slice(0, 300);
  const answer = `the server answered ${response.status} ${response.statusText}`.trim() + (said ? ` (${said})` : '');
  if (response.status === 429 || response.status >= 500) {
    throw new TryAgain(answer, retryAfterMs(response.headers.get('retry-after')));
  }
  throw new InputError(name, '', answer, allowedInstead(response));
}

function allowedInstead(response: Response): string {
  if (response.status === 401 || response.status === 403) {
    // It says so of names that nobody has, too, to keep private ones hidden.
    return response.headers.get('x-error-code') === 'RepoNotFound'
      ? 'a name that exists there, or an access token where it is private'
      : 'a public file, or an access token of someone who may read it';
  }
  return response.status === 404
    ? 'a name and a revision that the server has'
    : 'a file that the server gives to anyone';
}

/** Seconds, or a date. */
function retryAfterMs(header: string | null): number | undefined {
  if (header === null) return undefined;
  const ms = /^\d+$/.test(header.trim()) ? Number(header) * 1000 : Date.parse(header) - Date.now();
  return Number.isFinite(ms) ? Math.min(Math.max(ms, 0), MOST_PAUSE) : undefined;
}

/** The body, counted as it comes. */
async function body(response: Response, options: UrlOptions): Promise<Uint8Array<ArrayBuffer>> {
  if (options.onBytes === undefined || response.body === null) {
    const bytes = new Uint8Array(await response.arrayBuffer());
    options.onBytes?.(bytes.length);
    return bytes;
  }
  const parts: Uint8Array<ArrayBuffer>[] = [];
  const reader = response.body.getReader();
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    parts.push(value);
    options.onBytes(value.length);
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

async function attempt<T>(name: string, options: UrlOptions, action: () => Promise<T>): Promise<T> {
  const waits = waitsOf(options);
  for (let tries = 0; ; tries++) {
    try {
      return await action();
    } catch (error) {
      if (error instanceof InputError || options.signal?.aborted) throw error;
      if (tries >= waits.length) {
        const answered = error instanceof TryAgain;
        throw new DownloadFault(
          name,
          `it could not be fetched in ${tries + 1} attempts (${(error as Error).message})`,
          answered ? 'the same again later' : 'a server that answers: is the network there?',
        );
      }
      await pause((error instanceof TryAgain ? error.afterMs : undefined) ?? waits[tries]!);
    }
  }
}

const waitsOf = (options: UrlOptions): readonly number[] => options.pausesMs ?? pauses;
const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));
