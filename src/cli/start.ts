/** `npm start`: serves the studio, prints its address, opens a browser where there is a display to open one on. */
import { spawn } from 'node:child_process';
import { Failure, say, type Command, type House, type Values } from './command.ts';
import { text, wholeNumber } from './flags.ts';
import { serve, type Server } from './server.ts';

const usage = '[--port N] [--host H] [--no-open]';
/** Ports that are tried in turn where none is asked for; the page's storage belongs to the first. */
const PORTS = Array.from({ length: 20 }, (_, index) => 5180 + index);

export const command: Command = {
  usage,
  flags: { port: { type: 'string' }, host: { type: 'string' }, 'no-open': { type: 'boolean' } },
  positionals: [0, 0],
  run,
};

async function run(_positionals: string[], values: Values, house: House): Promise<number> {
  const port = wholeNumber(values, 'port', 0, 65535);
  const host = text(values, 'host') ?? '127.0.0.1';
  const folder = await house.page();
  const server = await serveOnFreePort(folder, host, port === undefined ? PORTS : [port]);
  process.stdout.write(`${server.origin}/\n`);
  if (!values['no-open'] && process.stdout.isTTY && hasDisplay()) open(`${server.origin}/`);
  await new Promise<void>((resolve) => {
    process.once('SIGINT', () => resolve());
    process.once('SIGTERM', () => resolve());
  });
  await server.close();
  return 0;
}

async function serveOnFreePort(folder: string, host: string, ports: number[]): Promise<Server> {
  for (const port of ports) {
    try {
      return await serve(folder, { port, host });
    } catch (error) {
      const { code, message } = error as NodeJS.ErrnoException;
      if (code !== 'EADDRINUSE') throw new Failure(`${host}:${port} can't be listened on (${message})`);
      if (ports.length > 1) say(`port ${port} is taken; trying the next (runs kept in the page belong to its port)`);
    }
  }
  throw new Failure(`port ${ports.join(', ')} is taken; free it, or: npm start -- --port N`);
}

function hasDisplay(): boolean {
  if (process.platform !== 'linux') return true;
  return Boolean(process.env.DISPLAY || process.env.WAYLAND_DISPLAY);
}

function open(address: string): void {
  const [program, ...args] = { darwin: ['open'], win32: ['cmd', '/c', 'start', ''] }[process.platform as string] ?? [
    'xdg-open',
  ];
  const child = spawn(program!, [...args, address], { detached: true, stdio: 'ignore' });
  child.on('error', () => say(`no browser could be opened; open ${address} in one`));
  child.unref();
}
