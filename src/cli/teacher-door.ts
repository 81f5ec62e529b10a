/**
 * The headless page's way to a teacher's server: requests for its address, sent on with the key. So the key never enters a
 * browser, and a server need not allow any page's origin. Answers flow through as they come, however long they take.
 */
import http, { type IncomingMessage, type ServerResponse } from 'node:http';
import https from 'node:https';
import { sendText } from './server.ts';

export interface TeacherDoor {
  /** The recipe's `teacher.url`; no request goes anywhere else. */
  readonly url: string;
  readonly key: string | undefined;
}

export function sendOn(
  door: TeacherDoor,
  to: string,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  if (!isBehind(door, to)) {
    sendText(response, 403, 'this address is not the teacher’s');
    return Promise.resolve();
  }
  const { 'content-type': type, 'content-length': length } = request.headers;
  const headers = {
    Accept: 'application/json',
    ...(type && { 'Content-Type': type }),
    ...(length && { 'Content-Length': length }),
    ...(door.key && { Authorization: `Bearer ${door.key}` }),
  };
  return new Promise((resolve) => {
    response.on('close', resolve);
    const sent = (to.startsWith('https:') ? https : http).request(to, { method: request.method, headers }, (answer) => {
      const { 'content-type': kind, 'retry-after': wait } = answer.headers;
      response.writeHead(answer.statusCode ?? 502, answer.statusMessage, {
        ...(kind && { 'Content-Type': kind }),
        ...(wait && { 'Retry-After': wait }),
      });
      answer.on('error', () => response.destroy());
      answer.pipe(response);
    });
    sent.on('error', (error: NodeJS.ErrnoException) => {
      if (response.headersSent) response.destroy();
      else sendText(response, 502, error.code ?? error.message);
    });
    // A page that has had enough takes its request back.
    response.on('close', () => sent.destroy());
    request.pipe(sent);
  });
}

/** The address itself or what lies below it, its version (`/v1`) aside. */
function isBehind({ url }: TeacherDoor, to: string): boolean {
  const base = new URL(url.replace(/\/+$/, '').replace(/\/v\d+$/, ''));
  const wanted = URL.canParse(to) ? new URL(to) : undefined;
  const folder = `${base.pathname.replace(/\/$/, '')}/`;
  return wanted?.origin === base.origin && wanted.pathname.startsWith(folder);
}
