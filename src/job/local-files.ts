/**
 * What a person brought into the page, kept with the run: by the path that the recipe gives it, with and without `./`.
 * A folder is every file whose path starts with its name.
 */
import type { ByteSource, FileSource } from '../formats/byte-source.ts';
import { blobFile } from '../formats/blob-source.ts';
import type { LocalFiles, WritableFolder } from './host.ts';
import type { BroughtFiles } from './protocol.ts';

const plain = (path: string): string => path.replace(/^(?:\.?\/)+/, '').replace(/\/+$/, '');

/** Before there is a run: straight from the page. */
export function broughtFiles(files: BroughtFiles): LocalFiles {
  const byPath = new Map(Object.entries(files).map(([path, blob]) => [plain(path), blob]));
  return localFiles([...byPath.keys()], async (path) => blobFile(byPath.get(path)!, path));
}

/** Copies them to where the run will find them again, and what only another run was brought. */
export async function keepBrought(files: BroughtFiles, folder: WritableFolder, others?: WritableFolder): Promise<void> {
  for (const [path, blob] of Object.entries(files)) await folder.write(plain(path), streamOf(blob));
  const brought = new Set(Object.keys(files).map(plain));
  for (const path of (await others?.list()) ?? []) {
    // kept by content: a second copy takes no room
    if (!brought.has(path)) await folder.write(path, streamOf((await others!.open(path))!));
  }
}

/** The first that has a file or folder serves it. */
export function firstOf(...all: readonly LocalFiles[]): LocalFiles {
  const holder = (value: string): LocalFiles => all.find((local) => local.has(value)) ?? all[0]!;
  return {
    has: (value) => all.some((local) => local.has(value)),
    folder: (value) => holder(value).folder(value),
    file: (value) => holder(value).file(value),
  };
}

export async function keptFiles(folder: WritableFolder): Promise<LocalFiles> {
  return localFiles(await folder.list(), (path) => folder.open(path));
}

function localFiles(paths: readonly string[], open: (path: string) => Promise<ByteSource | undefined>): LocalFiles {
  const known = new Set(paths);
  const inside = (value: string): string[] => paths.filter((path) => path.startsWith(`${plain(value)}/`));
  return {
    has: (value) => known.has(plain(value)) || inside(value).length > 0,
    folder(value): FileSource {
      const base = `${plain(value)}/`;
      return {
        name: value,
        async open(path) {
          const source = known.has(base + path) ? await open(base + path) : undefined;
          return (
            source && { ...source, name: `${value}/${path}`, size: source.size, read: (a, b) => source.read(a, b) }
          );
        },
        list: async () => inside(value).map((path) => path.slice(base.length)),
      };
    },
    async file(value) {
      return known.has(plain(value)) ? open(plain(value)) : undefined;
    },
  };
}

async function* streamOf(from: Blob | ByteSource): AsyncGenerator<Uint8Array<ArrayBuffer>> {
  const source = from instanceof Blob ? blobFile(from, '') : from;
  const step = 4 * 1024 * 1024;
  for (let at = 0; at < source.size; at += step) yield source.read(at, Math.min(source.size, at + step));
}
