/**
 * The page's side of a headless run (`npm start -- run`): the recipe and its files come from the command line, what the run
 * makes goes there, by HTTP on the page's own origin (src/cli/bridge-server.ts is the other side). Works in page and worker.
 */
import type { ByteSource, FileSource } from '../formats/byte-source.ts';
import { openUrl, urlFolder } from '../formats/url-source.ts';
import type { Recipe } from '../recipe/schema.ts';
import type { HubSettings } from './hub.ts';
import type { JobEvent } from './protocol.ts';

/** What the command line starts a page with. */
export interface BridgeStart {
  /** Parsed and filled in. */
  readonly recipe: Recipe;
  /** The recipe's file, as the person named it; errors repeat it. */
  readonly recipeFile: string;
  /** Whether to go on with the run that this browser profile keeps. */
  readonly resume: boolean;
  /** Where names of models lead, as the command line's environment says. */
  readonly hub?: Partial<HubSettings>;
  /** The values of the recipe that are files or folders of the command line's machine; all else is the hub's, a URL's or bundled. */
  readonly local: readonly string[];
}

/** A job's event, or a line of words. `done` must be the last: the command line closes the browser when it comes. */
export type BridgeEvent = JobEvent | { readonly kind: 'log'; readonly message: string };

export interface Bridge {
  readonly start: BridgeStart;
  /** Where requests for a teacher's server go, its address appended: the command line sends them on with the key. */
  readonly teacher: string;
  /** A folder that the recipe names (a value of `start.local`). */
  folder(value: string): FileSource;
  /** A file that the recipe names (a value of `start.local`); undefined where it is a folder or gone. */
  file(value: string): Promise<ByteSource | undefined>;
  /** Writes a file of the run's folder (`model/config.json`): all of it or nothing, whatever dies. */
  write(path: string, bytes: Uint8Array | Blob | AsyncIterable<Uint8Array>): Promise<void>;
  /** A file that `write` wrote, to look at it again. */
  written(path: string): Promise<ByteSource | undefined>;
  /** Adds a line to a file of the run's folder (`metrics.jsonl`); `write` replaces such a file. */
  append(path: string, line: string): Promise<void>;
  /** Tells the command line, in the order of the calls; resolves when it has heard. */
  event(event: BridgeEvent): Promise<void>;
}

/** Bytes of one request of a long file. */
const PIECE = 8 << 20;

/** @param token as the page's address has it: `#/run?bridge=TOKEN` */
export async function openBridge(token: string): Promise<Bridge> {
  const base = new URL(`/__bridge/${token}/`, globalThis.location.origin).href;
  const start = (await (await call(`${base}recipe`, {})).json()) as BridgeStart;
  let heard: Promise<unknown> = Promise.resolve();
  return {
    start,
    teacher: `${base}teacher?to=`,
    folder(value) {
      const at = encodeURIComponent(value);
      return {
        ...urlFolder(`${base}files/${at}/`, {}, value),
        list: async () => (await (await call(`${base}list/${at}`, {})).json()) as string[],
      };
    },
    file: (value) => openUrl(`${base}files/${encodeURIComponent(value)}`, {}, value),
    async write(path, bytes) {
      const url = `${base}out/${encodePath(path)}`;
      let at = 0;
      for await (const piece of pieces(bytes)) {
        await call(`${url}?at=${at}`, { method: 'PUT', body: piece });
        at += piece.byteLength;
      }
      await call(`${url}?at=${at}&end=1`, { method: 'PUT' });
    },
    written: (path) => openUrl(`${base}out/${encodePath(path)}`, {}, path),
    async append(path, line) {
      await call(`${base}append/${encodePath(path)}`, { method: 'POST', body: `${line}\n` });
    },
    async event(event) {
      const told = heard.then(() => call(`${base}events`, { method: 'POST', body: `${JSON.stringify(event)}\n` }));
      // One that fails to arrive must not silence those after it.
      heard = told.catch(() => undefined);
      await told;
    },
  };
}

const encodePath = (path: string): string => path.split('/').map(encodeURIComponent).join('/');

async function call(url: string, init: RequestInit): Promise<Response> {
  const response = await fetch(url, init);
  if (!response.ok) throw new Error(`the command line answered ${response.status}: ${await response.text()}`);
  return response;
}

async function* pieces(bytes: Uint8Array | Blob | AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array<ArrayBuffer>> {
  if (bytes instanceof Blob) {
    for (let at = 0; at < bytes.size; at += PIECE) {
      yield new Uint8Array(await bytes.slice(at, at + PIECE).arrayBuffer());
    }
  } else if (bytes instanceof Uint8Array) {
    // A request can't carry shared memory: copied, a piece at a time.
    for (let at = 0; at < bytes.length; at += PIECE) yield Uint8Array.from(bytes.subarray(at, at + PIECE));
  } else {
    for await (const chunk of bytes) yield* pieces(chunk);
  }
}
