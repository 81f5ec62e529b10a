/** The tar reader against archives of the system's own tar, cut short and leading astray. */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { brotliCompressSync } from 'node:zlib';
import { afterAll, expect, it } from 'vitest';
import { readTar, unpackTarBrotli } from './unpack.mjs';

const folder = mkdtempSync(join(tmpdir(), 'stillroom-unpack-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function tar(...args) {
  return execFileSync('tar', ['--format=ustar', '-cf', '-', ...args], { cwd: folder });
}

it('unpacks files, folders and modes', () => {
  const long = `${'deep/'.repeat(24)}file`; // longer than the 100 bytes of a name: ustar's prefix holds the rest
  mkdirSync(join(folder, 'in/deep', '..', long, '..'), { recursive: true });
  writeFileSync(join(folder, 'in/program'), 'x'.repeat(1000), { mode: 0o755 });
  writeFileSync(join(folder, 'in', long), 'deep');
  writeFileSync(join(folder, 'in/empty'), '');
  writeFileSync(join(folder, 'archive.tar.br'), brotliCompressSync(tar('in')));
  unpackTarBrotli(join(folder, 'archive.tar.br'), join(folder, 'out'));
  expect(readFileSync(join(folder, 'out/in/program'), 'utf8')).toBe('x'.repeat(1000));
  expect(statSync(join(folder, 'out/in/program')).mode & 0o777).toBe(0o755);
  expect(readFileSync(join(folder, 'out/in', long), 'utf8')).toBe('deep');
  expect(readFileSync(join(folder, 'out/in/empty'), 'utf8')).toBe('');
});

it('refuses what is cut short, and paths that lead out', () => {
  writeFileSync(join(folder, 'file'), 'x'.repeat(1000));
  const whole = tar('file');
  expect(() => [...readTar(whole.subarray(0, 900))]).toThrow('cut short');
  const astray = Buffer.from(whole);
  astray.write('../astray\0', 0);
  writeFileSync(join(folder, 'astray.tar.br'), brotliCompressSync(astray));
  expect(() => unpackTarBrotli(join(folder, 'astray.tar.br'), join(folder, 'out'))).toThrow('leads out');
  expect(existsSync(join(folder, 'astray'))).toBe(false);
});
