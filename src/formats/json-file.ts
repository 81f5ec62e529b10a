/** Small JSON files of a model folder: an object, or a precise refusal. */
import { readText, type ByteSource, type FileSource } from './byte-source.ts';
import { InputError } from './input-error.ts';
import { isJsonObject, parseStrictJson, type JsonObject } from './strict-json.ts';

/** Configs are kilobytes, the largest shard index a few megabytes. */
const largestJson = 64 * 1024 * 1024;

export async function readJsonObject(source: ByteSource): Promise<JsonObject> {
  if (source.size > largestJson) {
    throw new InputError(source.name, '', `it has ${source.size} bytes`, `a JSON object of at most ${largestJson}`);
  }
  let value: unknown;
  try {
    value = parseStrictJson(await readText(source));
  } catch (error) {
    if (error instanceof InputError) throw error;
    throw new InputError(
      source.name,
      '',
      `it is not valid JSON: ${(error as Error).message}`,
      'a JSON object in UTF-8',
    );
  }
  if (!isJsonObject(value)) throw new InputError(source.name, '', 'it is not an object', 'a JSON object');
  return value;
}

/** undefined where the folder has no such file. */
export async function openJsonObject(folder: FileSource, path: string): Promise<JsonObject | undefined> {
  const source = await folder.open(path);
  return source && readJsonObject(source);
}
