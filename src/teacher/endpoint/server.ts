/**
 * A teacher's server over HTTP: one JSON request at a time, tried again where trying again can help, and every fault told in
 * one sentence. What OpenAI-compatible servers share is known here (addresses, keys, the shape of an error); what they give
 * of probabilities is prompt-logprobs.ts.
 */
import { isJsonObject } from '../../formats/strict-json.ts';

/** How a server is reached from where this runs. */
export interface ServerAccess {
  /** Sent with every request; the server's key is among them. */
  readonly headers: Readonly<Record<string, string>>;
  /** Where a request for this address is really sent: the command line has a door of its own. */
  through(url: string): string;
}

export interface ServerOptions {
  /** Cancels what is under way. */
  readonly signal?: AbortSignal;
  /** Pauses between attempts, in milliseconds; tests pass shorter ones. */
  readonly pausesMs?: readonly number[];
  readonly fetch?: typeof fetch;
}

/** What the matter is, for those who say it in other words. */
export type FaultKind = 'unreached' | 'key' | 'model' | 'other';

/** A server that did not do what was asked of it; reads as an InputError does. */
export class ServerFault extends Error {
  override readonly name = 'ServerFault';

  constructor(
    readonly address: string,
    readonly what: string,
    readonly allowed: string,
    readonly kind: FaultKind = 'other',
    /** Of the answer; undefined where there was none. */
    readonly status?: number,
  ) {
    super(`${address}: ${what}: ${allowed}`);
  }
}

/** With these a server that is started, or that holds too many of us off for a moment, has its time. */
const PAUSES = [1000, 4000, 15_000, 30_000];
/** Longest that a server may ask us to wait. */
const MOST_SECONDS = 300;

type Json = Readonly<Record<string, unknown>>;

export class EndpointServer {
  /** Before `/v1`: where servers have what is their own. */
  readonly root: string;
  /** With the version that the address names, else `/v1`. */
  readonly api: string;
  private readonly fetch: typeof fetch;

  /** @param address as the recipe has it, with or without `/v1` */
  constructor(
    readonly address: string,
    private readonly access: ServerAccess,
    private readonly options: ServerOptions = {},
  ) {
    const plain = address.replace(/\/+$/, '');
    const version = /\/v\d+$/.exec(plain)?.[0];
    this.root = version === undefined ? plain : plain.slice(0, -version.length);
    this.api = version === undefined ? `${plain}/v1` : plain;
    this.fetch = options.fetch ?? ((url, init) => fetch(url, init));
  }

  /** The models that it says it serves; undefined where it does not say. */
  async models(): Promise<string[] | undefined> {
    const answer = await this.ask('GET', `${this.api}/models`).catch(unlessMissing);
    const data = answer?.['data'];
    if (!Array.isArray(data)) return undefined;
    return data.flatMap((one) => (isJsonObject(one) && typeof one['id'] === 'string' ? [one['id']] : []));
  }

  /** @param path of the API ("/chat/completions") */
  post(path: string, body: Json): Promise<Json> {
    return this.ask('POST', this.api + path, body);
  }

  /** What only some servers have, beside the API ("/tokenize"); undefined where this one has not. */
  own(path: string, body: Json): Promise<Json | undefined> {
    return this.ask('POST', this.root + path, body).catch(unlessMissing);
  }

  fault(what: string, allowed: string, kind?: FaultKind, status?: number): ServerFault {
    return new ServerFault(this.address, this.withoutKey(what), allowed, kind, status);
  }

  private async ask(method: 'GET' | 'POST', url: string, body?: Json): Promise<Json> {
    const pauses = this.options.pausesMs ?? PAUSES;
    for (let tries = 0; ; tries++) {
      const outcome = await this.attempt(method, url, body);
      if (!(outcome instanceof Again)) return outcome;
      if (tries >= pauses.length) {
        const what = tries === 0 ? outcome.what : `${outcome.what}, ${tries + 1} times`;
        throw this.fault(what, outcome.allowed, outcome.kind, outcome.status);
      }
      await sleep(outcome.afterMs ?? pauses[tries]!, this.options.signal);
    }
  }

  private async attempt(method: string, url: string, body: Json | undefined): Promise<Json | Again> {
    const { signal } = this.options;
    let response: Response;
    let text: string;
    try {
      response = await this.fetch(this.access.through(url), {
        method,
        // No header of our own beyond these two: some servers allow no others across origins.
        headers: { ...this.access.headers, ...(body && { 'Content-Type': 'application/json' }) },
        ...(body && { body: JSON.stringify(body) }),
        signal,
        ...addressSpace(url),
      });
    } catch (error) {
      signal?.throwIfAborted();
      return this.unreached(url, error as Error);
    }
    try {
      text = await response.text();
    } catch (error) {
      signal?.throwIfAborted();
      return new Again(`cut its answer off (${causeOf(error as Error)})`, 'a connection that holds', 'unreached');
    }
    if (!response.ok) return this.refused(response, text);
    try {
      const answer: unknown = JSON.parse(text);
      if (isJsonObject(answer)) return answer;
    } catch {
      if (/^\s*</.test(text)) {
        throw this.fault('answers with a web page', 'the address of the server’s API, with its port');
      }
    }
    return new Again('answers with what is no JSON object', 'an OpenAI-compatible server');
  }

  /** A browser does not say whether nobody is there or the page is kept out, and an isolated page can't find out. */
  private unreached(url: string, error: Error): Again {
    const reached = this.access.through(url);
    const what = `can’t be reached (${causeOf(error)})`;
    if (!isOtherOrigin(reached)) {
      return new Again(what, 'a server that is running, at this address and port', 'unreached');
    }
    const where = isMixed(reached)
      ? 'at an https address, as this page came over https, or on this very machine'
      : 'at this address and port';
    return new Again(
      what,
      `a server that is running, ${where}, and that allows pages of ${globalThis.location.origin} ` +
        '(CORS; vLLM: --allowed-origins, llama.cpp: --cors-origins, Ollama: OLLAMA_ORIGINS)',
      'unreached',
    );
  }

  private refused(response: Response, text: string): Again {
    const said = saidIn(text);
    // llama-cpp-python's server has 500 for a request that it does not understand, where others have 422
    const status = response.status === 500 && /\bvalidation errors?:/.test(said) ? 422 : response.status;
    const what = `answered ${`${response.status} ${response.statusText}`.trim()}${said === '' ? '' : ` (${said})`}`;
    if (status === 429 || status >= 500) {
      return new Again(what, 'a server that has time for us', 'other', status, retryAfter(response.headers));
    }
    const isKey = status === 401 || status === 403;
    const allowed = isKey
      ? 'the key of this server, which is asked for in the page, and on the command line read from the environment'
      : 'what this server takes';
    throw this.fault(what, allowed, isKey ? 'key' : 'other', status);
  }

  /** Servers repeat a key that they do not know. */
  private withoutKey(text: string): string {
    const key = this.access.headers['Authorization']?.replace(/^Bearer /, '');
    return key ? text.replaceAll(key, '…') : text;
  }
}

/** Whether the page needs the server's leave to read its answers. */
const isOtherOrigin = (url: string): boolean =>
  globalThis.location !== undefined && new URL(url).origin !== globalThis.location.origin;

/** Whether a page that came over https asks for something over http. */
const isMixed = (url: string): boolean => globalThis.location?.protocol === 'https:' && url.startsWith('http:');

/**
 * From a page that came over https, Chrome lets http through to this machine or this network where the request says that
 * it means one of these (Local Network Access). A wrong word is refused, so nothing is said of other addresses.
 */
function addressSpace(url: string): { targetAddressSpace?: 'loopback' | 'local' } {
  if (!isMixed(url)) return {};
  const { hostname } = new URL(url);
  if (/^(localhost|127\.[\d.]+|\[::1\])$/.test(hostname)) return { targetAddressSpace: 'loopback' };
  const local = /^(10\.|192\.168\.|172\.(1[6-9]|2\d|3[01])\.|169\.254\.)[\d.]+$|\.local$/.test(hostname);
  return local ? { targetAddressSpace: 'local' } : {};
}

class Again {
  constructor(
    readonly what: string,
    readonly allowed: string,
    readonly kind: FaultKind = 'other',
    readonly status?: number,
    readonly afterMs?: number,
  ) {}
}

/** A path that a server does not have (or shows nobody) is no fault where it was only asked whether it has it. */
function unlessMissing(error: unknown): undefined {
  if (error instanceof ServerFault && [403, 404, 405, 501].includes(error.status ?? 0)) return undefined;
  throw error;
}

/** What a server says is wrong, in OpenAI's shape, FastAPI's, or as plain words. */
function saidIn(text: string): string {
  let said = text;
  try {
    const { error, message, detail } = JSON.parse(text) as Record<string, unknown>;
    const inner = isJsonObject(error) ? error['message'] : error;
    const found = [inner, message, detail].find((one) => one !== undefined);
    said = typeof found === 'string' ? found : JSON.stringify(found ?? text);
  } catch {
    if (/^\s*</.test(text)) return '';
  }
  const line = said.replace(/\s+/g, ' ').trim();
  return line.length > 300 ? `${line.slice(0, 299)}…` : line;
}

/** In milliseconds; the header holds seconds or a date. */
function retryAfter(headers: Headers): number | undefined {
  const value = headers.get('retry-after');
  if (value === null) return undefined;
  const seconds = /^\d+(\.\d+)?$/.test(value) ? Number(value) : (Date.parse(value) - Date.now()) / 1000;
  return Number.isFinite(seconds) ? 1000 * Math.min(Math.max(seconds, 0), MOST_SECONDS) : undefined;
}

/** Node hides the reason one level deeper. */
function causeOf(error: Error): string {
  const { cause } = error as { cause?: { code?: string; message?: string } };
  return cause?.code ?? cause?.message ?? error.message;
}

async function sleep(milliseconds: number, signal: AbortSignal | undefined): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    const stop = (): void => {
      clearTimeout(timer);
      reject(signal!.reason as Error);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener('abort', stop);
      resolve();
    }, milliseconds);
    signal?.addEventListener('abort', stop, { once: true });
  });
}
