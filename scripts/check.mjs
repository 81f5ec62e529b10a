/**
 * `npm run check`: types, lint (with the import direction), layout. All at once, with caches: seconds.
 * `node scripts/check.mjs --fix` lets eslint and prettier mend what they can first.
 */
import { spawn } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const fix = process.argv.includes('--fix');
const cache = join(root, '.cache');
mkdirSync(cache, { recursive: true });

const TOOLS = {
  tsc: ['typescript/bin/tsc', '--noEmit', '--incremental', '--tsBuildInfoFile', '.cache/tsconfig.tsbuildinfo'],
  'svelte-check': [
    'svelte-check/bin/svelte-check',
    '--tsconfig',
    'tsconfig.json',
    '--fail-on-warnings',
    '--output',
    'human',
  ],
  eslint: [
    'eslint/bin/eslint.js',
    '--cache',
    '--cache-location',
    '.cache/eslint',
    '--max-warnings',
    '0',
    ...(fix ? ['--fix'] : []),
    '.',
  ],
  prettier: [
    'prettier/bin/prettier.cjs',
    fix ? '--write' : '--check',
    '--log-level',
    'warn',
    '--cache',
    '--cache-location',
    '.cache/prettier',
    '.',
  ],
};

/** @returns {Promise<{ name: string, code: number, seconds: number }>} its output is printed whole, so that tools don't mix */
function run(name) {
  const started = Date.now();
  const [script, ...args] = TOOLS[name];
  return new Promise((done) => {
    const child = spawn(process.execPath, [join(root, 'node_modules', script), ...args], { cwd: root });
    let output = '';
    child.stdout.on('data', (data) => (output += data));
    child.stderr.on('data', (data) => (output += data));
    child.on('close', (code) => {
      const seconds = (Date.now() - started) / 1000;
      if (code !== 0) console.error(`\n${name}:\n${output.trim()}\n`);
      done({ name, code: code ?? 1, seconds });
    });
  });
}

const results = [];
if (fix) results.push(await run('eslint'), await run('prettier'));
const rest = Object.keys(TOOLS).filter((name) => !results.some((result) => result.name === name));
results.push(...(await Promise.all(rest.map(run))));
console.error(
  results
    .map(({ name, code, seconds }) => `${name} ${code === 0 ? 'ok' : 'FAILED'} ${seconds.toFixed(1)} s`)
    .join(', '),
);
process.exitCode = results.every(({ code }) => code === 0) ? 0 : 1;
