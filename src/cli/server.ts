/**
 * The studio's server: the built page with the headers that make it safe (a strict content security policy), fast
 * (cross-origin isolation for WebAssembly threads) and fresh (hashed files for ever, the rest asked for each time).
 */
import { createHash } from 'node:crypto';
import { createReadStream, type Stats } from 'node:fs';
import { stat } from 'node:fs/promises';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import path from 'node:path';

/**
 * Scripts only from here, none inline. connect-src is open to http because a teacher may answer on any machine of the
 * room's network; models and rows come over https. Style attributes are what components set; style elements are not.
 */
const POLICY = [
  "default-src 'self'",
  "script-src 'self' 'wasm-unsafe-eval'",
  "worker-src 'self'",
  "connect-src 'self' blob: https: http:",
  "img-src 'self' data: blob:",
  "style-src 'self'",
  "style-src-attr 'unsafe-inline'",
  "object-src 'none'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join('; ');

const HEADERS = {
  'Content-Security-Policy': POLICY,
  'Cross-Origin-Opener-Policy': 'same-origin',
  // Safari knows no `credentialless`; the hub serves its files with CORS.
  'Cross-Origin-Embedder-Policy': 'require-corp',
  'Cross-Origin-Resource-Policy': 'same-origin',
  'X-Content-Type-Options': 'nosniff',
  'Referrer-Policy': 'no-referrer',
};

const TYPES: Record<string, string> = {
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.mjs': 'text/javascript; charset=utf-8',
  '.css': 'text/css; charset=utf-8',
  '.json': 'application/json; charset=utf-8',
  '.jsonl': 'application/x-ndjson; charset=utf-8',
  '.webmanifest': 'application/manifest+json; charset=utf-8',
  '.wasm': 'application/wasm',
  '.svg': 'image/svg+xml',
  '.png': 'image/png',
  '.ico': 'image/x-icon',
  '.woff2': 'font/woff2',
  '.txt': 'text/plain; charset=utf-8',
};

/** Answers requests whose path starts with `prefix`, instead of the page's files. */
export interface Route {
  readonly prefix: string;
  handle(request: IncomingMessage, response: ServerResponse, url: URL): Promise<void>;
}

export interface Server {
  readonly port: number;
  /** Where a browser on this machine finds it: localhost is a secure context, an address of the network is not. */
  readonly origin: string;
  close(): Promise<void>;
}

/** @param port 0 for any that is free */
export async function serve(
  folder: string,
  options: { port: number; host: string; routes?: Route[] },
): Promise<Server> {
  const { routes = [] } = options;
  const server = createServer((request, response) => {
    for (const [name, value] of Object.entries(HEADERS)) response.setHeader(name, value);
    const asked = request.url ?? '/';
    if (!URL.canParse(asked, 'http://localhost')) return sendText(response, 400, 'this is no address');
    const url = new URL(asked, 'http://localhost');
    const route = routes.find(({ prefix }) => url.pathname.startsWith(prefix));
    const answer = route ? route.handle(request, response, url) : servePage(folder, request, response, url.pathname);
    answer.catch((error: unknown) => {
      if (response.headersSent) response.destroy();
      else sendText(response, 500, error instanceof Error ? error.message : String(error));
    });
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(options.port, options.host, resolve);
  });
  const address = server.address();
  const port = typeof address === 'object' && address !== null ? address.port : options.port;
  return {
    port,
    origin: `http://${isAnyOrLoopback(options.host) ? 'localhost' : bracketed(options.host)}:${port}`,
    async close() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

const isAnyOrLoopback = (host: string): boolean => ['localhost', '127.0.0.1', '::1', '0.0.0.0', '::'].includes(host);
const bracketed = (host: string): string => (host.includes(':') ? `[${host}]` : host);

async function servePage(
  folder: string,
  request: IncomingMessage,
  response: ServerResponse,
  pathname: string,
): Promise<void> {
  if (request.method !== 'GET' && request.method !== 'HEAD') return sendText(response, 405, 'GET or HEAD');
  const file = fileInside(folder, pathname === '/' ? '/index.html' : pathname);
  const status = file === undefined ? undefined : await stat(file).catch(() => undefined);
  if (file === undefined || !status?.isFile()) return sendText(response, 404, 'there is no such file');
  const hashed = pathname.startsWith('/assets/');
  const etag = `"${createHash('sha256').update(`${status.size} ${status.mtimeMs}`).digest('base64url').slice(0, 16)}"`;
  response.setHeader('ETag', etag);
  response.setHeader('Cache-Control', hashed ? 'public, max-age=31536000, immutable' : 'no-cache');
  if (request.headers['if-none-match'] === etag) {
    response.writeHead(304).end();
    return;
  }
  await sendFile(request, response, file, status);
}

/** undefined where the address leads out of the folder or is no address at all. */
export function fileInside(folder: string, pathname: string): string | undefined {
  let decoded: string;
  try {
    decoded = decodeURIComponent(pathname);
  } catch {
    return undefined;
  }
  if (decoded.includes('\0')) return undefined;
  const root = path.resolve(folder);
  const file = path.resolve(root, `.${path.sep}${decoded}`);
  return file === root || file.startsWith(root + path.sep) ? file : undefined;
}

/** A file or the one range of it that is asked for. */
export async function sendFile(
  request: IncomingMessage,
  response: ServerResponse,
  file: string,
  status: Stats,
): Promise<void> {
  response.setHeader('Content-Type', TYPES[path.extname(file).toLowerCase()] ?? 'application/octet-stream');
  response.setHeader('Accept-Ranges', 'bytes');
  const range = parseRange(request.headers.range, status.size);
  if (range === 'none') {
    response.writeHead(416, { 'Content-Range': `bytes */${status.size}` }).end();
    return;
  }
  const { start, end } = range ?? { start: 0, end: status.size };
  response.setHeader('Content-Length', end - start);
  if (range) response.setHeader('Content-Range', `bytes ${start}-${end - 1}/${status.size}`);
  response.writeHead(range ? 206 : 200);
  if (request.method === 'HEAD' || start === end) {
    response.end();
    return;
  }
  await new Promise<void>((resolve, reject) => {
    const stream = createReadStream(file, { start, end: end - 1 });
    stream.on('error', reject);
    response.on('close', () => {
      stream.destroy();
      resolve();
    });
    stream.pipe(response);
  });
}

/** [start, end) of `bytes=a-b`, `bytes=a-` or `bytes=-n`; undefined for the whole file, 'none' for no byte of it. */
export function parseRange(
  header: string | undefined,
  size: number,
): { start: number; end: number } | 'none' | undefined {
  const match = /^bytes=(\d*)-(\d*)$/.exec(header ?? '');
  if (match === null || (match[1] === '' && match[2] === '')) return undefined;
  const [first, last] = [match[1]!, match[2]!];
  const start = first === '' ? Math.max(0, size - Number(last)) : Number(first);
  const end = first === '' || last === '' ? size : Math.min(size, Number(last) + 1);
  return start >= size || start >= end ? 'none' : { start, end };
}

export function sendText(response: ServerResponse, status: number, text: string): void {
  response.writeHead(status, { 'Content-Type': TYPES['.txt'] }).end(text);
}
