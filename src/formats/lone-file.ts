/** A weights file that is named by itself, as the folder that every reader of models takes. */
import type { ByteSource, FileSource } from './byte-source.ts';

export const isWeightsFile = (name: string): boolean => /\.(gguf|safetensors)$/.test(name);

/** A folder with nothing else in it. @param value its path or address, which errors repeat */
export function loneFile(value: string, open: () => Promise<ByteSource | undefined>): FileSource {
  const name = value.slice(value.lastIndexOf('/') + 1);
  return {
    name: value,
    open: async (path) => (path === name ? open() : undefined),
    list: async () => [name],
  };
}
