/** Files that a person picked or dropped into the page, as the byte and file sources that every reader takes. */
import type { ByteSource, FileSource } from './byte-source.ts';
import { InputError } from './input-error.ts';

export function blobFile(blob: Blob, name: string): ByteSource {
  return {
    name,
    size: blob.size,
    async read(start, end) {
      if (start < 0 || end > blob.size || start > end) {
        throw new RangeError(`${name}: bytes ${start} to ${end} of ${blob.size}`);
      }
      try {
        return new Uint8Array(await blob.slice(start, end).arrayBuffer());
      } catch (error) {
        // A picked file is a promise of the disk: changed or moved since, the browser refuses it.
        throw new InputError(
          name,
          '',
          `it can no longer be read (${(error as Error).message})`,
          'the file as it was picked',
        );
      }
    },
  };
}

/** A folder of files by their paths; a folder that holds them all is taken off, as a picker puts it in front. */
export function blobFolder(name: string, files: Iterable<{ path: string; blob: Blob }>): FileSource {
  const byPath = new Map<string, Blob>();
  for (const { path, blob } of files) byPath.set(path.replace(/^\/+/, ''), blob);
  const first = [...byPath.keys()][0]?.split('/') ?? [];
  const prefix = first.length > 1 ? `${first[0]}/` : '';
  const shared = prefix !== '' && [...byPath.keys()].every((path) => path.startsWith(prefix));
  const cut = shared ? prefix.length : 0;
  return {
    name,
    async open(path) {
      const blob = byPath.get(cut === 0 ? path : prefix + path);
      return blob && blobFile(blob, `${name}/${path}`);
    },
    async list() {
      return [...byPath.keys()].map((path) => path.slice(cut)).sort();
    },
  };
}

/** What `<input type="file" multiple>` or `webkitdirectory` gives. */
export function pickedFolder(files: Iterable<File>): FileSource {
  const entries = [...files].map((file) => ({ path: file.webkitRelativePath || file.name, blob: file }));
  return blobFolder(entries[0]?.path.split('/')[0] ?? 'files', entries);
}

/**
 * What was dropped: files, folders, or both. Call it in the drop event itself: the browser empties the list after the
 * event, so every entry is taken before the first await.
 */
export async function droppedFolder(items: Iterable<DataTransferItem>): Promise<FileSource> {
  const entries = [...items].map((item) => item.webkitGetAsEntry()).filter((entry) => entry !== null);
  const files: { path: string; blob: Blob }[] = [];
  for (const entry of entries) await collect(entry, files);
  return blobFolder(entries[0]?.name ?? 'files', files);
}

async function collect(entry: FileSystemEntry, files: { path: string; blob: Blob }[]): Promise<void> {
  if (entry.isFile) {
    const blob = await new Promise<File>((resolve, reject) => (entry as FileSystemFileEntry).file(resolve, reject));
    files.push({ path: entry.fullPath, blob });
    return;
  }
  const reader = (entry as FileSystemDirectoryEntry).createReader();
  // A reader answers in batches (100 in Chromium) and ends with an empty one.
  for (;;) {
    const batch = await new Promise<FileSystemEntry[]>((resolve, reject) => reader.readEntries(resolve, reject));
    if (batch.length === 0) return;
    for (const child of batch) await collect(child, files);
  }
}
