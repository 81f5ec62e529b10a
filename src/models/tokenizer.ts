/**
 * text ⇄ token ids, by the tokenizer.json of a model folder, as Python's tokenizers does it.
 *
 * @huggingface/tokenizers does the encoding; it takes what it is given, so the file is checked first: every id from 0 on
 * once, none beyond the model's vocabulary, merges that lead to known tokens. It gives no offsets either; where the
 * tokens' surfaces add up to the text again (byte-level, metaspace and plain vocabularies) they are exact, and a token
 * that holds part of a character covers the whole of it, as in Python.
 */
import { Tokenizer as Encoder } from '@huggingface/tokenizers';
import { sha256 } from 'hash-wasm';
import { readAll, type ByteSource, type FileSource } from '../formats/byte-source.ts';
import { InputError } from '../formats/input-error.ts';
import { ChatTemplate, type Span, type SpecialTokens } from './chat-template.ts';

/** Gemma's is the largest known, at 33 MB. */
const MOST_BYTES = 256 * 1024 * 1024;

type Json = Record<string, unknown>;

export interface LoadOptions {
  /** `vocab_size` of config.json; ids beyond it are refused. */
  readonly vocab_size?: number;
}

/** Reads tokenizer.json, tokenizer_config.json and chat_template.jinja of a model folder. */
export async function loadTokenizer(files: FileSource, options: LoadOptions = {}): Promise<Tokenizer> {
  const source = await files.open('tokenizer.json');
  if (source === undefined) {
    throw new InputError(files.name, '', 'has no tokenizer.json', 'a model folder with tokenizer.json, as on the hub');
  }
  const bytes = await readLimited(source);
  const tokenizer = parseObject(bytes, source.name);
  const configSource = await files.open('tokenizer_config.json');
  const config = configSource ? parseObject(await readLimited(configSource), configSource.name) : {};
  const template = await files.open('chat_template.jinja');
  const templateText = template ? decodeText(await readLimited(template), template.name) : templateOf(config);
  return new Tokenizer(tokenizer, config, {
    ...options,
    hash: await sha256(bytes),
    file: source.name,
    chatTemplate:
      templateText === undefined ? undefined : { text: templateText, file: template?.name ?? configSource!.name },
  });
}

export class Tokenizer {
  /** One more than the largest id. */
  readonly vocab_size: number;
  readonly bos_token_id: number | undefined;
  readonly eos_token_id: number | undefined;
  /** That of the end where the tokenizer names none: padding is masked everywhere, so its id never counts. */
  readonly pad_token_id: number;
  readonly special_tokens: SpecialTokens;
  /** Of a masked language model: `mask_token`, or `[MASK]` where the config leaves it to the class (BertTokenizer). */
  readonly mask_token_id: number | undefined;
  /** Tokens that stand for no text: those named in the config and those that tokenizer.json marks special. */
  readonly special_ids: ReadonlySet<number>;
  /** undefined where the model brings none (a base model). */
  readonly chat_template: ChatTemplate | undefined;
  /** sha256 of tokenizer.json, hex. */
  readonly hash: string;

  private readonly encoder: Encoder;
  private readonly surfaces: Surfaces;
  private readonly file: string;
  private readonly cleanUp: boolean;

  constructor(
    tokenizer: Json,
    config: Json,
    about: LoadOptions & { hash: string; file: string; chatTemplate: { text: string; file: string } | undefined },
  ) {
    const { file } = about;
    this.file = file;
    this.hash = about.hash;
    const tokens = checkVocabulary(tokenizer, about.vocab_size, file);
    this.vocab_size = tokens.length;
    try {
      this.encoder = new Encoder(withDefaults(tokenizer), config);
    } catch (error) {
      throw new InputError(
        file,
        '',
        `cannot be used (${saidBy(error)})`,
        'a tokenizer.json as the tokenizers library writes it',
      );
    }
    this.special_tokens = specialTokensOf(config);
    const idOf = (name: string): number | undefined => {
      const token = this.special_tokens[name];
      if (token === undefined) return undefined;
      const id = this.encoder.token_to_id(token);
      if (id === undefined)
        throw new InputError(
          file,
          name,
          `is ${JSON.stringify(token)}, which the vocabulary lacks`,
          'a token of the vocabulary',
        );
      return id;
    };
    this.bos_token_id = idOf('bos_token');
    this.eos_token_id = idOf('eos_token');
    this.pad_token_id = idOf('pad_token') ?? this.eos_token_id ?? 0;
    const known = (token = ''): number | undefined => this.encoder.token_to_id(token);
    this.mask_token_id = known(this.special_tokens['mask_token'] ?? '[MASK]');
    this.special_ids = specialIdsOf(tokenizer, Object.values(this.special_tokens).map(known));
    this.cleanUp = config['clean_up_tokenization_spaces'] === true;
    this.chat_template =
      about.chatTemplate && new ChatTemplate(about.chatTemplate.text, this.special_tokens, about.chatTemplate.file);
    this.surfaces = new Surfaces(tokenizer, tokens);
  }

  /** `add_special_tokens` (default true, as in Python) adds what the post-processor asks for, such as a leading BOS. */
  encode(text: string, options: { add_special_tokens?: boolean } = {}): number[] {
    if (text === '') return options.add_special_tokens === false ? [] : this.run('', true);
    return this.run(text, options.add_special_tokens ?? true);
  }

  private run(text: string, add_special_tokens: boolean): number[] {
    let ids: number[];
    try {
      ids = this.encoder.encode(text, { add_special_tokens }).ids;
    } catch (error) {
      throw new InputError(
        this.file,
        '',
        `cannot encode a text (${saidBy(error)})`,
        'a tokenizer that knows every character',
      );
    }
    const unknown = ids.findIndex((id) => !Number.isInteger(id) || id < 0 || id >= this.vocab_size);
    if (unknown >= 0) {
      throw new InputError(
        this.file,
        '',
        'has no id for a part of a text, and no unknown token',
        'a vocabulary that covers every character, or unk_token',
      );
    }
    return ids;
  }

  decode(ids: readonly number[], options: { skip_special_tokens?: boolean } = {}): string {
    if (ids.length === 0) return '';
    return this.encoder.decode([...ids], {
      skip_special_tokens: options.skip_special_tokens ?? false,
      clean_up_tokenization_spaces: this.cleanUp,
    });
  }

  /** From now on `hear` is told what words a text came apart into, and the tokens that those became. */
  listen(hear: (words: readonly string[], tokens: readonly string[]) => void): void {
    const model = this.encoder.model!;
    const encode = model.encode.bind(model);
    model.encode = (words) => {
      const tokens = encode(words);
      hear(words, tokens);
      return tokens;
    };
  }

  token(id: number): string | undefined {
    return this.encoder.id_to_token(id);
  }

  idOf(token: string): number | undefined {
    return this.encoder.token_to_id(token);
  }

  /**
   * For ids = encode(text, { add_special_tokens: false }): which tokens overlap one of the spans, as transformers'
   * assistant_masks says it (1 counts, 0 doesn't).
   * @param spans in order, not overlapping, in UTF-16 units of the text
   */
  mask(text: string, ids: readonly number[], spans: readonly Span[]): Uint8Array {
    const offsets = this.offsets(text, ids);
    const mask = new Uint8Array(ids.length);
    if (offsets !== undefined) {
      let at = 0;
      offsets.forEach(([start, end], i) => {
        while (at < spans.length && start >= spans[at]![1]) at++;
        if (at < spans.length && end > spans[at]![0]) mask[i] = 1;
      });
      return mask;
    }
    // No surfaces to go by: a border lies after the tokens that the text before it shares with the whole.
    for (const [start, end] of spans) {
      const from = this.tokensBefore(text, ids, start);
      const to = this.tokensBefore(text, ids, end);
      mask.fill(1, from.tokens, to.exact ? to.tokens : to.tokens + 1);
    }
    return mask;
  }

  /** Characters [start, end) of every token, or undefined where the surfaces don't add up to the text. */
  offsets(text: string, ids: readonly number[]): Span[] | undefined {
    return this.surfaces.offsets(text, ids);
  }

  private tokensBefore(text: string, ids: readonly number[], border: number): { tokens: number; exact: boolean } {
    const before = this.encode(text.slice(0, border), { add_special_tokens: false });
    let tokens = 0;
    while (tokens < before.length && before[tokens] === ids[tokens]) tokens++;
    return { tokens, exact: tokens === before.length };
  }
}

/** The bytes that a token stands for, where that can be told from the token alone. */
class Surfaces {
  private readonly kind: 'bytes' | 'metaspace' | 'plain';
  private readonly added = new Set<string>();
  private readonly known: (Uint8Array | undefined)[] = [];
  private readonly encoder = new TextEncoder();

  constructor(
    tokenizer: Json,
    private readonly tokens: readonly string[],
  ) {
    const parts = JSON.stringify([tokenizer['pre_tokenizer'], tokenizer['decoder'], tokenizer['normalizer']]);
    this.kind = parts.includes('"ByteLevel"')
      ? 'bytes'
      : parts.includes('▁') || parts.includes('"Metaspace"')
        ? 'metaspace'
        : 'plain';
    for (const token of (tokenizer['added_tokens'] as { content: string }[] | undefined) ?? [])
      this.added.add(token.content);
  }

  offsets(text: string, ids: readonly number[]): Span[] | undefined {
    const whole = this.encoder.encode(text);
    const pieces = ids.map((id) => this.surface(id));
    const length = pieces.reduce((sum, piece) => sum + piece.length, 0);
    // A metaspace tokenizer may put a space before the text.
    const shift = length - whole.length;
    if (shift !== 0 && !(shift === 1 && this.kind === 'metaspace')) return undefined;
    const starts = charsOfBytes(text, whole.length);
    const spans: Span[] = [];
    let at = -shift;
    for (const piece of pieces) {
      for (let i = 0; i < piece.length; i++) {
        if ((at + i < 0 ? SPACE : whole[at + i]) !== piece[i]) return undefined;
      }
      const start = starts[Math.max(at, 0)]!;
      at += piece.length;
      spans.push([start, Math.max(start, at <= 0 ? 0 : endOfChar(starts, at, text.length))]);
    }
    return spans;
  }

  private surface(id: number): Uint8Array {
    return (this.known[id] ??= this.make(this.tokens[id] ?? ''));
  }

  private make(token: string): Uint8Array {
    if (this.added.has(token)) return this.encoder.encode(token);
    if (this.kind === 'bytes') {
      const bytes = Array.from(token, (char) => BYTE_OF_CHAR.get(char));
      return bytes.includes(undefined) ? this.encoder.encode(token) : Uint8Array.from(bytes as number[]);
    }
    if (this.kind === 'metaspace') {
      const byte = /^<0x([0-9A-F]{2})>$/.exec(token)?.[1];
      return byte ? Uint8Array.of(parseInt(byte, 16)) : this.encoder.encode(token.replaceAll('▁', ' '));
    }
    return this.encoder.encode(token);
  }
}

const SPACE = 0x20;

/** For every byte of the text's UTF-8 (and its end): where the character it belongs to starts. */
function charsOfBytes(text: string, bytes: number): Uint32Array {
  const starts = new Uint32Array(bytes + 1);
  let at = 0;
  let i = 0;
  for (const char of text) {
    const point = char.codePointAt(0)!;
    const width = point < 0x80 ? 1 : point < 0x800 ? 2 : point < 0x10000 ? 3 : 4;
    starts.fill(i, at, at + width);
    at += width;
    i += char.length;
  }
  starts[bytes] = text.length;
  return starts;
}

/** The end, in characters, of what ends before byte `at`: the next character's start, or the end of a cut character. */
function endOfChar(starts: Uint32Array, at: number, length: number): number {
  const here = starts[at] ?? length;
  if (at === 0 || starts[at - 1] !== here) return here;
  let next = at;
  while (next < starts.length && starts[next] === here) next++;
  return starts[next] ?? length;
}

/** GPT-2's way of writing bytes as visible characters, turned round. */
export const BYTE_OF_CHAR: ReadonlyMap<string, number> = (() => {
  const visible = (byte: number) => (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
  const map = new Map<string, number>();
  let next = 256;
  for (let byte = 0; byte < 256; byte++) map.set(String.fromCodePoint(visible(byte) ? byte : next++), byte);
  return map;
})();

/** Tokens by id; throws where an id is missing, doubled, or beyond the model's vocabulary. */
function checkVocabulary(tokenizer: Json, vocabSize: number | undefined, file: string): string[] {
  const refuse = (place: string, what: string, allowed: string): never => {
    throw new InputError(file, place, what, allowed);
  };
  const model = tokenizer['model'];
  if (!isObject(model)) return refuse('model', 'is missing', 'the object that holds the vocabulary');
  const type = model['type'] ?? (Array.isArray(model['vocab']) ? 'Unigram' : 'BPE');
  if (typeof type !== 'string' || !['BPE', 'WordPiece', 'Unigram', 'WordLevel'].includes(type)) {
    return refuse('model.type', `is ${JSON.stringify(type)}`, '"BPE", "WordPiece", "Unigram" or "WordLevel"');
  }
  const tokens: string[] = [];
  const put = (token: unknown, id: unknown, place: string) => {
    if (typeof token !== 'string') return refuse(place, 'is not a text', 'every token is a text');
    if (typeof id !== 'number' || !Number.isInteger(id) || id < 0) {
      return refuse(place, `has the id ${JSON.stringify(id)}`, 'whole numbers from 0');
    }
    if (vocabSize !== undefined && id >= vocabSize) {
      return refuse(place, `has the id ${id}, and the model’s vocab_size is ${vocabSize}`, `ids below ${vocabSize}`);
    }
    if (id > MOST_TOKENS) return refuse(place, `has the id ${id}`, `ids below ${MOST_TOKENS}`);
    if (tokens[id] !== undefined && tokens[id] !== token) {
      return refuse(place, `has the id ${id}, as ${JSON.stringify(tokens[id])} has`, 'one token an id');
    }
    tokens[id] = token;
  };
  const { vocab } = model;
  if (type === 'Unigram' && Array.isArray(vocab)) {
    vocab.forEach((entry: unknown, id) => {
      if (!Array.isArray(entry) || typeof entry[1] !== 'number')
        refuse(`model.vocab.${id}`, 'is not [token, score]', 'a token and its score');
      else put(entry[0], id, `model.vocab.${id}`);
    });
    const unknown = model['unk_id'];
    if (unknown !== null && unknown !== undefined && tokens[unknown as number] === undefined) {
      refuse('model.unk_id', `is ${JSON.stringify(unknown)}`, 'an id of the vocabulary');
    }
  } else if (isObject(vocab)) {
    for (const [token, id] of Object.entries(vocab)) put(token, id, `token ${JSON.stringify(token.slice(0, 40))}`);
  } else refuse('model.vocab', 'is missing', 'tokens and their ids');
  const added = tokenizer['added_tokens'] ?? [];
  if (!Array.isArray(added)) return refuse('added_tokens', 'is not a list', 'a list of tokens');
  added.forEach((token: unknown, i) => {
    if (!isObject(token)) refuse(`added_tokens.${i}`, 'is not an object', 'a token with its content and id');
    else if (token['content'] === '') refuse(`added_tokens.${i}`, 'is empty', 'a token with content');
    else put(token['content'], token['id'], `added_tokens.${i}`);
  });
  if (tokens.length === 0) refuse('model.vocab', 'is empty', 'at least one token');
  for (let id = 0; id < tokens.length; id++) {
    if (tokens[id] === undefined) refuse(`id ${id}`, 'has no token', `every id from 0 to ${tokens.length - 1} has one`);
  }
  if (type === 'BPE') checkMerges(model['merges'], new Set(tokens), refuse);
  return tokens;
}

const MOST_TOKENS = 16 * 1024 * 1024;

function checkMerges(
  merges: unknown,
  known: ReadonlySet<string>,
  refuse: (place: string, what: string, allowed: string) => never,
): void {
  if (!Array.isArray(merges)) return refuse('model.merges', 'is missing', 'a list of pairs');
  merges.forEach((merge: unknown, i) => {
    const pair: unknown = typeof merge === 'string' ? merge.split(' ') : merge;
    if (!Array.isArray(pair) || pair.length !== 2 || !pair.every((part) => typeof part === 'string')) {
      return refuse(`model.merges.${i}`, 'is not a pair of tokens', 'two tokens, as "a b" or ["a", "b"]');
    }
    const [left, right] = pair as [string, string];
    const missing = [left, right].find((part) => !known.has(part));
    if (missing !== undefined)
      refuse(
        `model.merges.${i}`,
        `names ${JSON.stringify(missing)}, which the vocabulary lacks`,
        'tokens of the vocabulary',
      );
  });
}

/** The library wants these keys to be there. */
function withDefaults(tokenizer: Json): Json {
  return { normalizer: null, pre_tokenizer: null, post_processor: null, decoder: null, added_tokens: [], ...tokenizer };
}

function specialTokensOf(config: Json): SpecialTokens {
  const names = ['bos_token', 'eos_token', 'pad_token', 'unk_token', 'sep_token', 'cls_token', 'mask_token'];
  const tokens: Record<string, string> = {};
  for (const name of names) {
    const value = config[name];
    const content = isObject(value) ? value['content'] : value;
    if (typeof content === 'string' && content !== '') tokens[name] = content;
  }
  return tokens;
}

function specialIdsOf(tokenizer: Json, named: readonly (number | undefined)[]): ReadonlySet<number> {
  const added = (tokenizer['added_tokens'] as { id: number; special?: boolean }[] | undefined) ?? [];
  const special = added.filter((token) => token.special).map(({ id }) => id);
  return new Set([...special, ...named.filter((id) => id !== undefined)]);
}

/** tokenizer_config.json holds one template, or several by name. */
function templateOf(config: Json): string | undefined {
  const template = config['chat_template'];
  if (typeof template === 'string') return template;
  if (!Array.isArray(template)) return undefined;
  const named = template.filter(isObject);
  const found = named.find((entry) => entry['name'] === 'default') ?? named[0];
  return typeof found?.['template'] === 'string' ? found['template'] : undefined;
}

async function readLimited(source: ByteSource): Promise<Uint8Array<ArrayBuffer>> {
  if (source.size > MOST_BYTES)
    throw new InputError(source.name, '', `is ${source.size} bytes long`, `at most ${MOST_BYTES}`);
  return readAll(source);
}

function decodeText(bytes: Uint8Array, file: string): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch {
    throw new InputError(file, '', 'is not UTF-8', 'a text file in UTF-8');
  }
}

function parseObject(bytes: Uint8Array, file: string): Json {
  let json: unknown;
  try {
    json = JSON.parse(decodeText(bytes, file));
  } catch (error) {
    if (error instanceof InputError) throw error;
    throw new InputError(file, '', `is not JSON (${saidBy(error)})`, 'a JSON object; the file may be cut');
  }
  if (!isObject(json)) throw new InputError(file, '', 'is not a JSON object', 'a JSON object');
  return json;
}

const isObject = (value: unknown): value is Json =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

function saidBy(error: unknown): string {
  const said = error instanceof Error ? error.message : String(error);
  return said.replace(/\s+/g, ' ').slice(0, 160);
}
