/**
 * The weights of a model folder as one set of named tensors, whatever files hold them: model.safetensors, its shards
 * under model.safetensors.index.json, another safetensors file that stands alone, or a GGUF. Names are the hub's.
 */
import type { ByteSource, FileSource } from './byte-source.ts';
import { modelFromGguf } from './gguf-model.ts';
import { openGguf } from './gguf.ts';
import { InputError } from './input-error.ts';
import { openJsonObject, readJsonObject } from './json-file.ts';
import { openSafetensors } from './safetensors.ts';
import { isJsonObject, type JsonObject } from './strict-json.ts';
import { findTensor, type TensorFile, type TensorInfo } from './tensor-file.ts';

export interface Weights extends TensorFile {
  readonly kind: 'safetensors' | 'gguf';
  /** The files that hold them, as the person named them. */
  readonly files: readonly string[];
  /** Bytes of these files. */
  readonly bytes: number;
  /** The folder's config.json, or what a GGUF's metadata says; undefined where there is neither. */
  readonly config: JsonObject | undefined;
}

const wholeFile = 'model.safetensors';
const indexFile = 'model.safetensors.index.json';
const pickled = /^pytorch_model.*\.bin$|\.(pt|pth|ckpt)$/;

/** `file` names the one to take where a folder has several. */
export async function openWeights(folder: FileSource, { file }: { file?: string } = {}): Promise<Weights> {
  const config = await openJsonObject(folder, 'config.json');
  if (file !== undefined) {
    const source = await folder.open(file);
    if (source === undefined) throw new InputError(folder.name, file, 'there is no such file', 'a file of the folder');
    return openSource(folder, source, file, config);
  }
  for (const path of [wholeFile, indexFile]) {
    const source = await folder.open(path);
    if (source !== undefined) return openSource(folder, source, path, config);
  }
  const names = (await folder.list?.()) ?? [];
  const top = names.filter((name) => !name.includes('/') && !name.startsWith('adapter_'));
  const candidates = top.filter((name) => /\.(safetensors|gguf)$/.test(name));
  if (candidates.length > 1) {
    const list = candidates.slice(0, 5).join(', ');
    throw new InputError(
      folder.name,
      '',
      `it holds ${candidates.length} weights files (${list})`,
      'one, or the name of one',
    );
  }
  const only = candidates[0];
  const source = only === undefined ? undefined : await folder.open(only);
  if (only === undefined || source === undefined) {
    const pickle = top.find((name) => pickled.test(name));
    const what = pickle ? `its weights are pickled (${pickle}), which can run code` : 'it holds no weights';
    throw new InputError(folder.name, '', what, `${wholeFile}, ${indexFile} or one .gguf`);
  }
  return openSource(folder, source, only, config);
}

async function openSource(
  folder: FileSource,
  source: ByteSource,
  path: string,
  config: JsonObject | undefined,
): Promise<Weights> {
  if (path.endsWith('.index.json')) return { ...(await openShards(folder, source)), kind: 'safetensors', config };
  const about = { files: [source.name], bytes: source.size };
  if (path.endsWith('.gguf')) {
    if (/-\d{5}-of-\d{5}\.gguf$/.test(path) && !path.endsWith('-00001-of-00001.gguf')) {
      throw new InputError(
        source.name,
        '',
        'it is one part of a split GGUF',
        'one file: join them with llama-gguf-split',
      );
    }
    const model = await modelFromGguf(await openGguf(source));
    return { ...model, ...about, kind: 'gguf', config: config ?? model.config };
  }
  return { ...(await openSafetensors(source)), ...about, kind: 'safetensors', config };
}

async function openShards(
  folder: FileSource,
  index: ByteSource,
): Promise<TensorFile & Pick<Weights, 'files' | 'bytes'>> {
  const { weight_map: map } = await readJsonObject(index);
  if (!isJsonObject(map)) throw new InputError(index.name, 'weight_map', 'it is missing', 'an object: tensor to file');
  const shards = new Map<string, TensorFile>();
  const homes = new Map<string, TensorFile>();
  const tensors = new Map<string, TensorInfo>();
  let bytes = 0;
  for (const [tensor, file] of Object.entries(map)) {
    const place = `weight_map.${tensor}`;
    // The index comes from outside: a shard is a file beside it and nothing else.
    if (typeof file !== 'string' || !/^[^/\\]+\.safetensors$/.test(file)) {
      throw new InputError(
        index.name,
        place,
        `its file is ${JSON.stringify(file)}`,
        'the bare name of a .safetensors file',
      );
    }
    let shard = shards.get(file);
    if (shard === undefined) {
      const source = await folder.open(file);
      if (source === undefined)
        throw new InputError(index.name, place, `${file} is missing`, 'every shard in the folder');
      shard = await openSafetensors(source);
      shards.set(file, shard);
      bytes += source.size;
    }
    const info = shard.tensors.get(tensor);
    if (info === undefined)
      throw new InputError(index.name, place, `${file} does not hold it`, 'the tensor in that shard');
    homes.set(tensor, shard);
    tensors.set(tensor, info);
  }
  const home = (name: string) => {
    findTensor(index.name, tensors, name);
    return homes.get(name)!;
  };
  return {
    name: folder.name,
    files: [...shards.values()].map((shard) => shard.name),
    bytes,
    tensors,
    metadata: [...shards.values()][0]?.metadata ?? {},
    read: async (name) => home(name).read(name),
    readF32: async (name) => home(name).readF32(name),
  };
}
