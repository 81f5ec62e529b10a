/** Files and folders on disk as the byte and file sources that every reader takes. */
import { statSync } from 'node:fs';
import { open, readdir, stat } from 'node:fs/promises';
import path from 'node:path';
import type { ByteSource, FileSource } from '../formats/byte-source.ts';
import { InputError } from '../formats/input-error.ts';
import { isWeightsFile, loneFile } from '../formats/lone-file.ts';

/** One read call of the system moves at most 2 GiB. */
const largestRead = 1 << 30;
const deepestFolder = 3;

/** `name` is what errors say; the path itself where it is left out. */
export async function nodeFile(file: string, name = file): Promise<ByteSource> {
  const source = await openIfThere(file, name);
  if (source === undefined) throw new InputError(name, '', 'there is no such file', 'a file that can be read');
  return source;
}

export function nodeFolder(folder: string, name = folder): FileSource {
  const root = path.resolve(folder);
  return {
    name,
    async open(relative) {
      const file = path.resolve(root, relative);
      // Names come out of files that others wrote (a shard index): none may lead out of the folder.
      if (file !== root && !file.startsWith(root.endsWith(path.sep) ? root : root + path.sep)) {
        throw new InputError(name, relative, 'it leads out of the folder', 'a path inside the folder');
      }
      return openIfThere(file, path.join(name, relative));
    },
    async list() {
      return listFiles(root, '', deepestFolder);
    },
  };
}

/** A model by the path of its folder, or of its weights alone. */
export function nodeModel(place: string): FileSource {
  const isFolder = statSync(place, { throwIfNoEntry: false })?.isDirectory() === true;
  if (isFolder || !isWeightsFile(place)) return nodeFolder(place);
  return loneFile(place, () => openIfThere(path.resolve(place), place));
}

async function openIfThere(file: string, name: string): Promise<ByteSource | undefined> {
  let size: number;
  try {
    const status = await stat(file);
    if (!status.isFile()) return undefined;
    size = status.size;
  } catch (error) {
    if (isAbsent(error)) return undefined;
    throw new InputError(name, '', `it can't be read (${(error as Error).message})`, 'a file that can be read');
  }
  return {
    name,
    size,
    async read(start, end) {
      if (start < 0 || end > size || start > end) throw new RangeError(`${name}: bytes ${start} to ${end} of ${size}`);
      const bytes = new Uint8Array(end - start);
      // Opened for each read: no handle outlives its use, and reads are large.
      const handle = await open(file, 'r');
      try {
        for (let at = 0; at < bytes.length;) {
          const { bytesRead } = await handle.read(bytes, at, Math.min(bytes.length - at, largestRead), start + at);
          if (bytesRead === 0) throw new InputError(name, '', 'it became shorter while it was read', 'a file at rest');
          at += bytesRead;
        }
      } finally {
        await handle.close();
      }
      return bytes;
    },
  };
}

function isAbsent(error: unknown): boolean {
  const code = (error as NodeJS.ErrnoException).code;
  return code === 'ENOENT' || code === 'ENOTDIR';
}

async function listFiles(root: string, prefix: string, depth: number): Promise<string[]> {
  let entries;
  try {
    entries = await readdir(path.join(root, prefix), { withFileTypes: true });
  } catch (error) {
    if (isAbsent(error)) return [];
    throw error;
  }
  const names: string[] = [];
  for (const entry of entries.sort((a, b) => (a.name < b.name ? -1 : 1))) {
    const relative = prefix === '' ? entry.name : `${prefix}/${entry.name}`;
    if (entry.isDirectory()) {
      if (depth > 1 && !entry.name.startsWith('.')) names.push(...(await listFiles(root, relative, depth - 1)));
    } else {
      names.push(relative);
    }
  }
  return names;
}
