/**
 * What is built, rebuilt only when the content of a source changed: the page (dist/page) and the command line (dist/cli).
 * The two are apart so that `forward` waits for no page.
 */
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, readdirSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join, relative, sep } from 'node:path';
import { Complaint, root, run, say } from './house.mjs';
import { isForTests } from './import-direction.mjs';

const room = (path) => (path.startsWith(`src${sep}`) ? path.split(sep)[1] : undefined);

const TARGETS = {
  page: {
    config: 'vite.config.ts',
    sources: ['src', 'workers', 'public', 'index.html', 'svelte.config.js'],
    includes: (path) => !isForTests(path) && room(path) !== 'cli',
  },
  cli: {
    config: 'vite.cli.config.ts',
    sources: ['src'],
    includes: (path) => !isForTests(path) && room(path) !== 'app' && room(path) !== 'store',
  },
};

/** @param {'page' | 'cli'} name @returns {Promise<string>} the folder */
export async function ensureBuilt(name) {
  const { config, sources, includes } = TARGETS[name];
  const folder = join(root, 'dist', name);
  const stamp = join(root, 'dist', `${name}.hash`);
  const files = [...sources.flatMap(walk).filter(includes), config, 'package-lock.json', 'package.json'];
  const hash = hashOf(files);
  if (existsSync(folder) && existsSync(stamp) && readFileSync(stamp, 'utf8') === hash) return folder;

  say(`building dist/${name} ...`);
  // Built aside and moved in one step: nobody sees half a build, and an interrupted one is done again.
  const aside = join(root, 'dist', `${name}.${process.pid}`);
  mkdirSync(join(root, 'dist'), { recursive: true });
  try {
    const vite = join(root, 'node_modules/vite/bin/vite.js');
    const { code, output } = await run(
      process.execPath,
      [vite, 'build', '--logLevel', 'error', '--config', config, '--outDir', aside],
      {
        quiet: true,
        // the same build whoever asks for it: vitest says `test` to what it starts
        env: { NO_COLOR: '1', NODE_ENV: 'production', VITEST: undefined },
      },
    );
    if (code !== 0) throw new Complaint(`${output.trim()}\ndist/${name} could not be built`);
    rmSync(stamp, { force: true });
    rmSync(folder, { recursive: true, force: true });
    renameSync(aside, folder);
    writeFileSync(stamp, hash);
  } finally {
    rmSync(aside, { recursive: true, force: true });
  }
  return folder;
}

/** Files under a path of the project, relative to it, in a fixed order. */
function walk(path) {
  const full = join(root, path);
  if (!existsSync(full)) return [];
  if (!statSync(full).isDirectory()) return [path];
  return readdirSync(full, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(root, join(entry.parentPath, entry.name)))
    .sort();
}

function hashOf(files) {
  const hash = createHash('sha256');
  for (const file of files) {
    const bytes = readFileSync(join(root, file));
    hash.update(`${file}\0${bytes.length}\0`).update(bytes);
  }
  return hash.digest('hex');
}
