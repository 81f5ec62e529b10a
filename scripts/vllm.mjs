/**
 * vLLM (`pip install vllm`), for a test that has it serve an exported folder: the `vllm` that STILLROOM_VLLM names. It is no
 * part of the project, and takes gigabytes; without it that test skips.
 */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { say } from './house.mjs';

/** It compiles for the machine first. */
const PATIENCE_MS = 600_000;
/** A hub is asked for nothing, and the makers are told nothing; of memory a gigabyte for keys and values, where it is a CPU's. */
const QUIET = { HF_HUB_OFFLINE: '1', VLLM_NO_USAGE_STATS: '1', DO_NOT_TRACK: '1', VLLM_CPU_KVCACHE_SPACE: '1' };

/**
 * @returns {string | undefined} the command; undefined, and a line that says so, where none is named
 * @throws where one is named that does not work
 */
export function vllmCommand() {
  const named = process.env.STILLROOM_VLLM;
  if (!named) {
    say('skipped: no vLLM is named (STILLROOM_VLLM=/path/to/vllm)');
    return undefined;
  }
  const { status } = spawnSync(named, ['--version'], { stdio: 'ignore', env: { ...process.env, ...QUIET } });
  if (status !== 0) throw new Error(`STILLROOM_VLLM: ${named} does not say its version`);
  return named;
}

/**
 * `vllm serve FOLDER` as a model card says it.
 * @param {string} command
 * @param {string} folder
 * @param {readonly string[]} more of its arguments
 * @returns {Promise<{ url: string, close: () => Promise<void> }>} once it answers
 */
export async function serveWithVllm(command, folder, more) {
  const port = await freePort();
  // Python finds modules where it is started: in a folder with nothing in it.
  const cwd = await mkdtemp(join(tmpdir(), 'stillroom-vllm-'));
  const args = ['serve', folder, '--port', String(port), ...more];
  const child = spawn(command, args, { cwd, env: { ...process.env, ...QUIET }, detached: true });
  let words = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (data) => (words = (words + data).slice(-4000)));
  const ended = new Promise((resolve) => child.on('close', resolve));
  const runs = () => child.exitCode === null && child.signalCode === null;
  const close = async () => {
    // its workers too: the whole group
    if (runs()) process.kill(-child.pid, 'SIGTERM');
    await ended;
    await rm(cwd, { recursive: true, force: true });
  };
  const url = `http://127.0.0.1:${port}/v1`;
  for (const until = Date.now() + PATIENCE_MS; Date.now() < until;) {
    if (!runs()) break;
    const there = await fetch(`${url}/models`).then(
      ({ ok }) => ok,
      () => false,
    );
    if (there) return { url, close };
    await new Promise((resolve) => setTimeout(resolve, 500));
  }
  await close();
  throw new Error(`vLLM does not serve ${folder}:\n${words}`);
}

async function freePort() {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  await once(server, 'close');
  return port;
}
