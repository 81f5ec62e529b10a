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

/** Copies them to where the run will find them again. */
export async function keepBrought(files: BroughtFiles, folder: WritableFolder): Promise<void> {
  for (const [path, blob] of Object.entries(files)) await folder.write(plain(path), streamOf(blob));
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

async function* streamOf(blob: Blob): AsyncGenerator<Uint8Array<ArrayBuffer>> {
  const step = 4 * 1024 * 1024;
  for (let at = 0; at < blob.size; at += step) yield new Uint8Array(await blob.slice(at, at + step).arrayBuffer());
}
