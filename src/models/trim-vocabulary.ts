/**
 * Fewer tokens for a model: those that its rows use, and what it takes to write any text at all. The tokenizer's files, the
 * ids that configs name and the rows of embedding and head are those of the tokens that stay, in their old order.
 *
 * Rows are cut into the same tokens as before, by the kind of the tokenizer:
 *  - BPE merges, at each moment, the pair whose rule stands first in the list. A rule that is never applied in a word's
 *    derivation was never the first of those that could be, so without it the first is the same one at every moment: what
 *    must stay are the rules that were applied, and the tokens that they make. A token at the end of a derivation was made
 *    by merges within its own characters alone, in the order in which they happen where it stands alone: so these are found
 *    by deriving each token that the rows end in, whatever the words it came from.
 *  - WordPiece takes the longest piece that fits, again and again. A shorter list offers no longer one; the pieces taken on
 *    the way to a dead end stay too, or a word that was unknown could be read another way.
 *  - Unigram takes the likeliest way through a word. Ways that vanish leave it the likeliest; a token of the lowest score
 *    stays, because that of an unknown character is made from it.
 *  - WordLevel knows whole words.
 * It is proven all the same, row by row, where the rows are (job/steps/rows.ts).
 */
import { MemorySource, readText, type FileSource } from '../formats/byte-source.ts';
import { InputError } from '../formats/input-error.ts';
import type { TensorFile, TensorInfo } from '../formats/tensor-file.ts';
import { readAnyArchitecture, type ModelOptions } from './architectures/index.ts';
import { baseParameters, type Model } from './model.ts';
import { BYTE_OF_CHAR, type Tokenizer } from './tokenizer.ts';

/** What of a vocabulary stays. */
export interface KeptTokens {
  /** Old ids, rising: a token's new id is its place. */
  readonly kept: readonly number[];
  /** Tokens before. */
  readonly of: number;
}

/** Which id a token has now: -1 where it is gone. */
export function newIds({ kept, of }: KeptTokens): Int32Array {
  const ids = new Int32Array(of).fill(-1);
  kept.forEach((old, id) => (ids[old] = id));
  return ids;
}

type Json = Record<string, unknown>;
type Pair = readonly [left: string, right: string];

interface TokenizerJson extends Json {
  readonly model: Json & { readonly type?: string; readonly vocab: Record<string, number> | [string, number][] };
  readonly added_tokens?: { readonly id: number; readonly content: string }[];
}

/** Listens to a tokenizer at work, and says which tokens its texts need. */
export class TokenUse {
  private readonly used = new Set<string>();
  private readonly ids: ReadonlyMap<string, number>;
  private readonly type: string;

  private constructor(
    private readonly json: TokenizerJson,
    private readonly tokenizer: Tokenizer,
  ) {
    const { vocab } = json.model;
    this.type = json.model.type ?? (Array.isArray(vocab) ? 'Unigram' : 'BPE');
    this.ids = new Map(Array.isArray(vocab) ? vocab.map(([token], id) => [token, id]) : Object.entries(vocab));
    tokenizer.listen((words, tokens) => this.hear(words, tokens));
  }

  /** Refuses a tokenizer of another kind. @param tokenizer that of the folder, before it has cut a text */
  static async of(folder: FileSource, tokenizer: Tokenizer): Promise<TokenUse> {
    const source = (await folder.open('tokenizer.json'))!;
    const json = JSON.parse(await readText(source)) as TokenizerJson;
    refuseUnserved(json, source.name);
    return new TokenUse(json, tokenizer);
  }

  private hear(words: readonly string[], tokens: readonly string[]): void {
    for (const token of tokens) this.used.add(token);
    if (this.type === 'WordPiece' && tokens.includes(this.json.model['unk_token'] as string)) {
      for (const word of words) this.takeLongest(word);
    }
  }

  /** The pieces that are taken of a word, up to where nothing fits. */
  private takeLongest(word: string): void {
    const { max_input_chars_per_word = 100, continuing_subword_prefix = '##' } = this.json.model;
    const characters = Array.from(word);
    if (characters.length > Number(max_input_chars_per_word)) return;
    for (let start = 0, end = characters.length; start < end;) {
      const piece = (start > 0 ? String(continuing_subword_prefix) : '') + characters.slice(start, end).join('');
      if (this.ids.has(piece)) {
        this.used.add(piece);
        [start, end] = [end, characters.length];
      } else end--;
    }
  }

  /** @param named ids that stay whatever the texts: those that configs name */
  kept(named: Iterable<number>): KeptTokens {
    const stay = new Set<string>([...this.alphabet(), ...this.used]);
    if (this.type === 'BPE') for (const part of this.parts(this.used)) stay.add(part);
    const of = this.tokenizer.vocab_size;
    const ids = new Set<number>([...named, ...this.tokenizer.special_ids, ...idsOfProcessor(this.json)]);
    for (const token of stay) if (this.ids.has(token)) ids.add(this.ids.get(token)!);
    for (const { id } of this.json.added_tokens ?? []) ids.add(id);
    const unknown = this.json.model['unk_token'] ?? this.json.model['unk_id'];
    if (typeof unknown === 'number') ids.add(unknown);
    if (typeof unknown === 'string' && this.ids.has(unknown)) ids.add(this.ids.get(unknown)!);
    return { kept: [...ids].filter((id) => id >= 0 && id < of).sort((a, b) => a - b), of };
  }

  /** What any text can be written with. */
  private *alphabet(): Iterable<string> {
    const { model, pre_tokenizer, normalizer } = this.json;
    if (JSON.stringify([pre_tokenizer, normalizer]).includes('"ByteLevel"')) return yield* BYTE_OF_CHAR.keys();
    if (this.type === 'Unigram') yield* leastLikely(model.vocab as [string, number][]);
    const bytes = Array.from({ length: 256 }, (_, byte) => byteToken(byte));
    const falls = this.type === 'BPE' && model['byte_fallback'] === true && bytes.every((byte) => this.ids.has(byte));
    const prefix = this.type === 'WordPiece' ? String(model['continuing_subword_prefix'] ?? '##') : '';
    // A character that bytes can say may go; a blank's stand-in may not, as decoders turn it back before they join bytes.
    const stays = (character: string): boolean => !falls || character === '▁' || character < '\u0080';
    if (falls) yield* bytes;
    if (this.type === 'WordLevel') return;
    for (const token of this.ids.keys()) {
      const bare = prefix !== '' && token.startsWith(prefix) ? token.slice(prefix.length) : token;
      if (isCharacter(bare) && stays(bare)) yield token;
    }
  }

  /** What tokens are merged from, by and by. */
  private *parts(tokens: Iterable<string>): Iterable<string> {
    const ranks = new Map(mergesOf(this.json).map((pair, rank) => [keyOf(pair), rank]));
    for (const token of tokens) {
      const symbols = Array.from(token);
      yield* symbols;
      for (let made = merge(symbols, ranks); made !== undefined; made = merge(symbols, ranks)) yield made;
    }
  }
}

/** One merge, in place: by the first rule that can be applied, of equals at the first place. @returns what it makes */
function merge(symbols: string[], ranks: ReadonlyMap<string, number>): string | undefined {
  let [best, at] = [Infinity, -1];
  for (let i = 0; i + 1 < symbols.length; i++) {
    const rank = ranks.get(keyOf([symbols[i]!, symbols[i + 1]!])) ?? Infinity;
    if (rank < best) [best, at] = [rank, i];
  }
  if (at < 0) return undefined;
  const made = symbols[at]! + symbols[at + 1]!;
  symbols.splice(at, 2, made);
  return made;
}

/** No two pairs have the same. */
const keyOf = ([left, right]: Pair): string => `${left.length} ${left}${right}`;
const byteToken = (byte: number): string => `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`;
const isCharacter = (token: string): boolean => token.length <= 2 && Array.from(token).length === 1;

function leastLikely(vocab: readonly [string, number][]): string[] {
  const least = vocab.reduce((least, one) => (one[1] < least[1] ? one : least));
  return [least[0]];
}

function mergesOf({ model }: TokenizerJson): Pair[] {
  const merges = model['merges'] as (string | [string, string])[];
  return merges.map((merge) => (typeof merge === 'string' ? merge.split(' ') : merge) as [string, string]);
}

function refuseUnserved({ model }: TokenizerJson, file: string): void {
  const fields = ['continuing_subword_prefix', 'end_of_word_suffix', 'continuing_subword_suffix', 'dropout'];
  if (model.type !== undefined && model.type !== 'BPE') return;
  for (const field of fields) {
    if (model[field] === undefined || model[field] === null || model[field] === '' || model[field] === 0) continue;
    throw new InputError(
      file,
      `model.${field}`,
      `is ${JSON.stringify(model[field])}, and the vocabulary of such a tokenizer can't be trimmed`,
      'student.compress.vocabulary null, or a tokenizer without it',
    );
  }
}

/** `[CLS]` and its like, in every spelling of a post-processor. */
function idsOfProcessor({ post_processor }: TokenizerJson): number[] {
  const ids: number[] = [];
  mapProcessor(post_processor, (id) => (ids.push(id), id));
  return ids;
}

/** `{ ids: [101] }` of templates, `["[SEP]", 102]` of BERT's and RoBERTa's own. */
function mapProcessor(value: unknown, change: (id: number) => number): unknown {
  if (Array.isArray(value)) {
    const [token, id] = value as unknown[];
    if (value.length === 2 && typeof token === 'string' && typeof id === 'number') return [token, change(id)];
    return value.map((item) => mapProcessor(item, change));
  }
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).map(([key, item]) => [
      key,
      key === 'ids' ? (item as number[]).map(change) : mapProcessor(item, change),
    ]),
  );
}

/** Ids that a config names, whether for itself or for a text model inside it. */
export function namedIds(config: Readonly<Json>): number[] {
  return Object.entries(config).flatMap(([field, value]) => {
    if (NAMES_TOKEN.test(field)) return [value].flat().filter((id): id is number => typeof id === 'number');
    return isObject(value) ? namedIds(value) : [];
  });
}

/** `eos_token_id`, `boi_token_index`. */
const NAMES_TOKEN = /(?:^|_)token_(?:id|index)$/;
/** Lists of what is not to be written: a token that is gone can't be. */
const FORBIDS = /^(?:begin_)?suppress_tokens$/;

const isObject = (value: unknown): value is Json =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** A config that names the tokens by their new ids. */
function renamed(config: Readonly<Json>, ids: Int32Array): Json {
  // what is below 0 stands for none, as it did
  const one = (id: unknown): unknown => (typeof id !== 'number' || id < 0 ? id : (ids[id] ?? -1) < 0 ? null : ids[id]);
  const some = (list: unknown): unknown =>
    Array.isArray(list) ? list.map(one).filter((id) => id !== null) : one(list);
  return Object.fromEntries(
    Object.entries(config).map(([field, value]) => {
      if (NAMES_TOKEN.test(field) || FORBIDS.test(field)) return [field, some(value)];
      if (field === 'bad_words_ids' && Array.isArray(value)) {
        return [field, value.map((word: unknown[]) => word.map(one)).filter((word) => !word.includes(null))];
      }
      return [field, isObject(value) ? renamed(value, ids) : value];
    }),
  );
}

/** What only Python's slow tokenizers read, which take tokenizer.json where there is one. It would say the old ids. */
const GONE = new Set(['vocab.json', 'merges.txt', 'vocab.txt', 'tokenizer.model', 'added_tokens.json']);

/** The folder with the files of its tokenizer, and generation_config.json, for the tokens that stay. */
export function trimFolder(folder: FileSource, tokens: KeptTokens): FileSource {
  const ids = newIds(tokens);
  const change: Readonly<Record<string, (json: Json) => Json>> = {
    'tokenizer.json': (json) => trimTokenizer(json as TokenizerJson, ids),
    'tokenizer_config.json': (json) => {
      const { added_tokens_decoder: added, ...rest } = json;
      if (!isObject(added)) return json;
      const moved = Object.entries(added).flatMap(([id, token]) => {
        const now = ids[Number(id)] ?? -1;
        return now < 0 ? [] : [[now, token]];
      });
      return { ...rest, added_tokens_decoder: Object.fromEntries(moved) as Json };
    },
    'generation_config.json': (json) => renamed(json, ids),
  };
  const made = new Map<string, Promise<Uint8Array<ArrayBuffer>>>();
  return {
    name: folder.name,
    async open(path) {
      if (GONE.has(path)) return undefined;
      const source = await folder.open(path);
      if (!source || !Object.hasOwn(change, path)) return source;
      const make = async (): Promise<Uint8Array<ArrayBuffer>> => {
        const json = JSON.parse(await readText(source)) as Json;
        return new TextEncoder().encode(JSON.stringify(change[path]!(json), null, 2));
      };
      if (!made.has(path)) made.set(path, make());
      return new MemorySource(source.name, await made.get(path)!);
    },
    ...(folder.list && { list: async () => (await folder.list!()).filter((path) => !GONE.has(path)) }),
  };
}

function trimTokenizer(json: TokenizerJson, ids: Int32Array): Json {
  const { model, added_tokens, post_processor, padding } = json;
  const now = (id: number): number => ids[id]!;
  const stays = ([, id]: readonly [string, number]): boolean => now(id) >= 0;
  const { vocab } = model;
  const left: [string, number][] = Array.isArray(vocab)
    ? vocab.filter((_, id) => now(id) >= 0)
    : Object.entries(vocab)
        .filter(stays)
        .map(([token, id]): [string, number] => [token, now(id)])
        .sort((a, b) => a[1] - b[1]);
  return {
    ...json,
    model: {
      ...model,
      vocab: Array.isArray(vocab) ? left : Object.fromEntries(left),
      ...(Array.isArray(model['merges']) && { merges: trimMerges(json, new Set(left.map(([token]) => token))) }),
      ...(typeof model['unk_id'] === 'number' && { unk_id: now(model['unk_id']) }),
    },
    ...(added_tokens && { added_tokens: added_tokens.map((token) => ({ ...token, id: now(token.id) })) }),
    post_processor: mapProcessor(post_processor, now) ?? null,
    ...(isObject(padding) && typeof padding['pad_id'] === 'number'
      ? { padding: { ...padding, pad_id: now(padding['pad_id']) } }
      : {}),
  };
}

/** Rules between tokens that stay, as they were written: those that were applied are among them, and more do no harm. */
function trimMerges(json: TokenizerJson, tokens: ReadonlySet<string>): unknown[] {
  const merges = mergesOf(json);
  return (json.model['merges'] as unknown[]).filter((_, i) => {
    const [left, right] = merges[i]!;
    return tokens.has(left) && tokens.has(right) && tokens.has(left + right);
  });
}

/** @param folder of the tokens that stay (`trimFolder`) */
export function trimVocabulary(
  model: Model<ModelOptions>,
  tokens: KeptTokens,
  folder: FileSource,
): Model<ModelOptions> {
  const { kept } = tokens;
  const { vocab_size } = model.options;
  const beyond = kept.at(-1)!;
  if (beyond >= vocab_size) {
    const allowed = `ids below the ${vocab_size} of its config.json`;
    throw new InputError(model.name, 'tokenizer.json', `its token ${beyond} has no row in the model`, allowed);
  }
  const config = { ...renamed(model.config, newIds(tokens)), vocab_size: kept.length };
  const file = `${model.name}/config.json`;
  const options = readAnyArchitecture(config, file, new Set(model.weights.tensors.keys()));
  const parameters = baseParameters(options);
  // Whatever has a row a token has more of them where there are more tokens: embedding, head, a head's bias.
  const more = baseParameters({ ...model.options, vocab_size: 2 * vocab_size });
  const tables = new Set(
    [...model.parameters].flatMap(([name, [rows]]) => (more.get(name)![0] === rows ? [] : [name])),
  );
  const tensors = new Map<string, TensorInfo>(model.weights.tensors);
  for (const name of tables) {
    const shape = parameters.get(name) as readonly number[];
    tensors.set(name, { dtype: 'F32', shape, bytes: 4 * shape.reduce((a, b) => a * b, 1) });
  }
  const readF32 = async (name: string): Promise<Float32Array<ArrayBuffer>> => {
    const data = await model.weights.readF32(name);
    return tables.has(name) ? rowsOf(data, kept, data.length / vocab_size) : data;
  };
  const weights: TensorFile = {
    ...model.weights,
    tensors,
    readF32,
    read: (name) => (tables.has(name) ? readF32(name) : model.weights.read(name)),
  };
  return { ...model, folder, config, options, parameters, weights };
}

function rowsOf(data: Float32Array, rows: readonly number[], width: number): Float32Array<ArrayBuffer> {
  const gathered = new Float32Array(rows.length * width);
  rows.forEach((row, i) => gathered.set(data.subarray(row * width, (row + 1) * width), i * width));
  return gathered;
}
