/** Brotli and tar, as much of them as the archives inside @sparticuz/chromium use. */
import { createReadStream, createWriteStream, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join, normalize, sep } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { brotliDecompressSync, createBrotliDecompress } from 'node:zlib';

const BLOCK = 512;

export async function unpackBrotli(archive, file, mode) {
  mkdirSync(dirname(file), { recursive: true });
  await pipeline(createReadStream(archive), createBrotliDecompress(), createWriteStream(file, { mode }));
}

export function unpackTarBrotli(archive, folder) {
  for (const { path, mode, bytes } of readTar(brotliDecompressSync(readFileSync(archive)))) {
    const file = normalize(join(folder, path));
    if (!file.startsWith(normalize(folder) + sep)) throw new Error(`${archive}: ${path} leads out of the folder`);
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, bytes, { mode });
  }
}

/** Regular files of a ustar archive. @returns {Generator<{ path: string, mode: number, bytes: Buffer }>} */
export function* readTar(tar) {
  const text = (at, length) => tar.toString('utf8', at, at + length).replace(/\0.*$/s, '');
  for (let at = 0; at + BLOCK <= tar.length && tar[at] !== 0;) {
    const size = parseInt(text(at + 124, 12), 8);
    const type = String.fromCharCode(tar[at + 156]);
    const prefix = text(at + 257, 5) === 'ustar' ? text(at + 345, 155) : '';
    const path = prefix === '' ? text(at, 100) : `${prefix}/${text(at, 100)}`;
    const start = at + BLOCK;
    if (!(size >= 0) || start + size > tar.length) throw new Error(`tar: ${path} is cut short`);
    if (type === '0' || type === '\0') {
      yield { path, mode: parseInt(text(at + 100, 8), 8) & 0o777, bytes: tar.subarray(start, start + size) };
    } else if (type !== '5') {
      throw new Error(`tar: ${path} is of the unknown type ${type}`);
    }
    at = start + Math.ceil(size / BLOCK) * BLOCK;
  }
}
