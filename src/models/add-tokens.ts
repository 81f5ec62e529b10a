/**
 * New tokens for a model: one id more each after the tokenizer's last, a row more each in the embedding and the head, tied
 * or not. A row starts as the mean of all rows that stand for a token (Hewitt 2021, "Initializing new word embeddings"):
 * the model then gives the new tokens about the probability of an average one. Rows that only pad the vocabulary are used
 * up first.
 */
import { MemorySource, readText, type FileSource } from '../formats/byte-source.ts';
import type { TensorFile, TensorInfo } from '../formats/tensor-file.ts';
import { isEncoder, readArchitecture, type ModelOptions } from './architectures/index.ts';
import { headName, type DecoderOptions } from './decoder.ts';
import { trainsWhole, type LoraSettings, type TokenIndices } from './lora.ts';
import { baseParameters, type Model } from './model.ts';
import { LLAMA_NAMES } from './names.ts';
import { loadTokenizer } from './tokenizer.ts';

export interface AddedTokens {
  /** The folder with the tokens in its tokenizer.json. */
  readonly folder: FileSource;
  /** Ids of the tokens that the vocabulary did not have. */
  readonly first: number;
  readonly count: number;
}

/** As single, special tokens. One that the vocabulary has keeps its id, and is found as a whole from now on. */
export async function addTokens(folder: FileSource, tokens: readonly string[]): Promise<AddedTokens> {
  if (tokens.length === 0) return { folder, first: 0, count: 0 };
  const tokenizer = await loadTokenizer(folder);
  const first = tokenizer.vocab_size;
  const known = new Map(Array.from({ length: first }, (_, id) => [tokenizer.token(id), id]));
  const json = JSON.parse(await readText((await folder.open('tokenizer.json'))!)) as Record<string, unknown>;
  const added = [...((json.added_tokens ?? []) as { content: string }[])];
  let next = first;
  for (const content of new Set(tokens)) {
    if (added.some((token) => token.content === content)) continue;
    const id = known.get(content) ?? next++;
    const entry = { id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: true };
    added.push(entry);
  }
  const bytes = new TextEncoder().encode(JSON.stringify({ ...json, added_tokens: added }, null, 2));
  return {
    folder: {
      name: folder.name,
      open: async (path) =>
        path === 'tokenizer.json' ? new MemorySource(`${folder.name}/tokenizer.json`, bytes) : folder.open(path),
      ...(folder.list && { list: () => folder.list!() }),
    },
    first,
    count: next - first,
  };
}

/** The model with rows for them. */
export function growVocabulary(model: Model<ModelOptions>, { folder, first, count }: AddedTokens): Model<ModelOptions> {
  if (count === 0) return { ...model, folder };
  const vocab_size = Math.max(model.options.vocab_size, first + count);
  const config = { ...model.config, vocab_size };
  const options = readArchitecture(config, `${model.name}/config.json`);
  const tables = tablesOf(options);
  const tensors = new Map<string, TensorInfo>(model.weights.tensors);
  for (const name of tables) {
    const width = tensors.get(name)!.shape[1]!;
    tensors.set(name, { dtype: 'F32', shape: [vocab_size, width], bytes: 4 * vocab_size * width });
  }
  const readF32 = async (name: string): Promise<Float32Array<ArrayBuffer>> => {
    const data = await model.weights.readF32(name);
    return tables.includes(name) ? withMeanRows(data, tensors.get(name)!.shape, first, count) : data;
  };
  const weights: TensorFile = {
    ...model.weights,
    tensors,
    readF32,
    read: (name) => (tables.includes(name) ? readF32(name) : model.weights.read(name)),
  };
  return { ...model, folder, config, options, parameters: baseParameters(options), weights };
}

/**
 * Which rows an adapter trains beside its pairs, as PEFT's `trainable_token_indices` has it: of a head apart, by name; none
 * of a table that it trains whole.
 */
export function trainedTokens(
  options: ModelOptions,
  { first, count }: AddedTokens,
  settings: LoraSettings,
): TokenIndices | null {
  if (count === 0 || isEncoder(options)) return null;
  const ids = Array.from({ length: count }, (_, i) => first + i);
  if (options.tie_word_embeddings) return ids;
  const tables = tablesOf(options).filter((name) => !trainsWhole(settings, name));
  if (tables.length === 0) return null;
  return Object.fromEntries(tables.map((name) => [name.split('.').at(-2)!, ids]));
}

function tablesOf(options: DecoderOptions): string[] {
  return [...new Set([`${(options.names ?? LLAMA_NAMES).embedding}.weight`, headName(options)])];
}

function withMeanRows(
  data: Float32Array,
  [rows, width]: readonly number[],
  first: number,
  count: number,
): Float32Array<ArrayBuffer> {
  const grown = new Float32Array(rows! * width!);
  grown.set(data);
  const mean = new Float64Array(width!);
  for (let i = 0; i < first * width!; i++) mean[i % width!]! += data[i]! / first;
  for (let row = first; row < first + count; row++) grown.set(mean, row * width!);
  return grown;
}
