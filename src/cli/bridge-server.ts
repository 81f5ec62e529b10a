/**
 * The command line's side of a headless run: the page asks for the recipe and its files and hands over what it makes, all by
 * HTTP on the page's own origin, behind a token that only this run's page knows. The page's side is src/job/bridge.ts.
 *
 *   GET  /__bridge/TOKEN/recipe                 BridgeStart
 *   GET  /__bridge/TOKEN/files/BASE[/PATH]      a file that the recipe names, or inside a folder that it names; ranges, HEAD
 *   GET  /__bridge/TOKEN/list/BASE              the folder's files, as JSON
 *   GET  /__bridge/TOKEN/out/PATH               a file that the page wrote, to look at it again; ranges, HEAD
 *   PUT  /__bridge/TOKEN/out/PATH?at=N[&end=1]  bytes from N on of a file of the run's folder; renamed into place at its end
 *   POST /__bridge/TOKEN/append/PATH            lines at the end of such a file
 *   POST /__bridge/TOKEN/events                 BridgeEvents, one JSON a line
 *   *    /__bridge/TOKEN/teacher?to=URL         a request for the recipe's teacher behind a server (teacher-door.ts)
 */
import { mkdir, open, rename, stat } from 'node:fs/promises';
import type { IncomingMessage, ServerResponse } from 'node:http';
import path from 'node:path';
import type { BridgeEvent, BridgeStart } from '../job/bridge.ts';
import { nodeFolder } from './node-files.ts';
import { fileInside, sendFile, sendText, type Route } from './server.ts';
import { sendOn, type TeacherDoor } from './teacher-door.ts';

export interface BridgeOptions {
  readonly token: string;
  readonly start: BridgeStart;
  /** The folder that the recipe's paths are relative to. */
  readonly recipeFolder: string;
  /** The run's folder; `.stillroom` in it is the command line's own. */
  readonly outFolder: string;
  /** Where the recipe's teacher is a server. */
  readonly teacher?: TeacherDoor;
  onEvent(event: BridgeEvent): void;
}

export interface BridgeServer {
  readonly route: Route;
  /** Paths of the files that this run's page wrote, relative to its folder. */
  readonly written: ReadonlySet<string>;
}

export function bridgeServer(options: BridgeOptions): BridgeServer {
  const prefix = `/__bridge/${options.token}/`;
  const written = new Set<string>();

  /** The file of a request's path inside the run's folder. */
  function outFile(rest: string): { file: string; name: string } | undefined {
    const file = fileInside(options.outFolder, rest);
    if (file === undefined) return undefined;
    const name = path.relative(options.outFolder, file);
    return name === '' || name.split(path.sep)[0] === '.stillroom' ? undefined : { file, name };
  }

  /** BASE is a value of the recipe, whole; what follows lies inside it. */
  function sourceFile(rest: string): string | undefined {
    const [encoded = '', ...inside] = rest.split('/');
    const base = decodeURIComponent(encoded);
    if (!options.start.local.includes(base)) return undefined;
    const root = path.resolve(options.recipeFolder, base);
    return inside.length === 0 ? root : fileInside(root, inside.join('/'));
  }

  async function sendSource(request: IncomingMessage, response: ServerResponse, rest: string): Promise<void> {
    await send(request, response, sourceFile(rest), 'the recipe names no such file');
  }

  async function send(
    request: IncomingMessage,
    response: ServerResponse,
    file: string | undefined,
    otherwise: string,
  ): Promise<void> {
    const status = file === undefined ? undefined : await stat(file).catch(() => undefined);
    if (file === undefined || !status?.isFile()) return sendText(response, 404, otherwise);
    response.setHeader('Cache-Control', 'no-store');
    await sendFile(request, response, file, status);
  }

  async function put(request: IncomingMessage, response: ServerResponse, rest: string, url: URL): Promise<void> {
    const target = outFile(rest);
    if (target === undefined) return sendText(response, 400, 'the path leads out of the run');
    const at = Number(url.searchParams.get('at') ?? 0);
    const part = `${target.file}.part`;
    await mkdir(path.dirname(target.file), { recursive: true });
    const handle = await open(part, at === 0 ? 'w' : 'r+');
    try {
      const { size } = await handle.stat();
      if (size < at) return sendText(response, 409, `byte ${at} of a file of ${size}`);
      let position = at;
      for await (const chunk of request as AsyncIterable<Uint8Array>) {
        await handle.write(chunk, 0, chunk.length, position);
        position += chunk.length;
      }
      await handle.truncate(position);
      if (url.searchParams.has('end')) await handle.sync();
    } finally {
      await handle.close();
    }
    if (url.searchParams.has('end')) await rename(part, target.file);
    written.add(url.searchParams.has('end') ? target.name : `${target.name}.part`);
    response.writeHead(204).end();
  }

  async function append(request: IncomingMessage, response: ServerResponse, rest: string): Promise<void> {
    const target = outFile(rest);
    if (target === undefined) return sendText(response, 400, 'the path leads out of the run');
    const text = await bodyText(request);
    await mkdir(path.dirname(target.file), { recursive: true });
    const handle = await open(target.file, 'a');
    await handle.appendFile(text);
    await handle.close();
    written.add(target.name);
    response.writeHead(204).end();
  }

  async function handle(request: IncomingMessage, response: ServerResponse, url: URL): Promise<void> {
    const [door = '', ...parts] = url.pathname.slice(prefix.length).split('/');
    const rest = parts.join('/');
    if (door === 'teacher' && options.teacher) {
      return sendOn(options.teacher, url.searchParams.get('to') ?? '', request, response);
    }
    switch (`${request.method} ${door}`) {
      case 'GET recipe':
        return sendJson(response, options.start);
      case 'GET blank':
        response.writeHead(200, { 'Content-Type': 'text/html' }).end('<!doctype html><title>Stillroom</title>');
        return;
      case 'GET files':
      case 'HEAD files':
        return sendSource(request, response, rest);
      case 'GET list': {
        const folder = sourceFile(rest);
        if (folder === undefined) return sendText(response, 404, 'the recipe names no such folder');
        return sendJson(response, await nodeFolder(folder).list!());
      }
      case 'GET out':
      case 'HEAD out':
        return send(request, response, outFile(rest)?.file, 'the run has no such file');
      case 'PUT out':
        return put(request, response, rest, url);
      case 'POST append':
        return append(request, response, rest);
      case 'POST events':
        for (const line of (await bodyText(request)).split('\n')) {
          if (line !== '') options.onEvent(JSON.parse(line) as BridgeEvent);
        }
        response.writeHead(204).end();
        return;
      default:
        return sendText(response, 404, 'the bridge has no such door');
    }
  }

  return { route: { prefix, handle }, written };
}

function sendJson(response: ServerResponse, value: unknown): void {
  response
    .writeHead(200, { 'Content-Type': 'application/json', 'Cache-Control': 'no-store' })
    .end(JSON.stringify(value));
}

async function bodyText(request: IncomingMessage): Promise<string> {
  const parts: Uint8Array[] = [];
  for await (const chunk of request as AsyncIterable<Uint8Array>) parts.push(chunk);
  return Buffer.concat(parts).toString('utf8');
}
