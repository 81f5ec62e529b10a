/**
 * What the scripts share: where the project lies, how a program is run with its output on stderr (stdout belongs to what a
 * command answers), and the error whose words are all that a person needs to see. Plain Node: these run before any install.
 */
import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';

export const root = fileURLToPath(new URL('..', import.meta.url)).replace(/[\\/]$/, '');

/** Something a person can mend; printed without a stack. */
export class Complaint extends Error {}

/**
 * For tests of the ways round what is missing: STILLROOM_HIDE names what to overlook, comma-separated:
 * `browser` (installed ones), `playwright`, `chromium-package`, `vulkan` (installed drivers), `apt`.
 */
export const hidden = (what) => (process.env.STILLROOM_HIDE ?? '').split(',').includes(what);

export const say = (line) => process.stderr.write(`${line}\n`);

/**
 * Runs a program; what it prints goes to stderr, or is kept and told only when it fails.
 * @param {{ cwd?: string, env?: Record<string, string>, quiet?: boolean, timeout?: number }} options
 * @returns {Promise<{ code: number, output: string }>}
 */
export function run(program, args, { cwd = root, env = {}, quiet = false, timeout } = {}) {
  return new Promise((done) => {
    const stdio = quiet ? ['ignore', 'pipe', 'pipe'] : ['ignore', process.stderr, process.stderr];
    const child = spawn(program, args, { cwd, env: { ...process.env, ...env }, stdio, timeout, killSignal: 'SIGKILL' });
    let output = '';
    child.stdout?.on('data', (data) => (output += data));
    child.stderr?.on('data', (data) => (output += data));
    child.on('error', (error) => done({ code: 127, output: error.message }));
    child.on('close', (code) => done({ code: code ?? 1, output }));
  });
}

/** The npm that started us, else the one in PATH. Through node, because Windows' `npm` is a batch file. */
export function npm(args, options) {
  const script = process.env.npm_execpath;
  if (script && /npm-cli\.js$/.test(script)) return run(process.execPath, [script, ...args], options);
  return process.platform === 'win32' ? run('cmd.exe', ['/c', 'npm', ...args], options) : run('npm', args, options);
}

export const isRoot = () => process.getuid?.() === 0;
