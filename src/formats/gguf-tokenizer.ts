/**
 * The tokenizer of a GGUF as the hub's files would say it, where a folder has no tokenizer.json: byte-level BPE (`gpt2`: that
 * of GPT-2, Llama 3, Qwen, SmolLM2). The rule that cuts text into words is only named there (`tokenizer.ggml.pre`), so a name
 * that is not known here is refused, and so are other kinds of tokenizer.
 */
import { MemorySource, type FileSource } from './byte-source.ts';
import { openGguf, type GgufFile } from './gguf.ts';
import { InputError } from './input-error.ts';
import type { JsonObject } from './strict-json.ts';

/** llama.cpp's names of what a token is. */
const CONTROL = 3;
const USER_DEFINED = 4;
const UNUSED = 5;

const byteLevel = (use_regex: boolean): JsonObject => ({
  type: 'ByteLevel',
  add_prefix_space: false,
  trim_offsets: true,
  use_regex,
});
const split = (digits: string): JsonObject => ({
  type: 'Sequence',
  pretokenizers: [
    {
      type: 'Split',
      pattern: {
        Regex: `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|${digits}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+`,
      },
      behavior: 'Isolated',
      invert: false,
    },
    byteLevel(false),
  ],
});
const digitsApart: JsonObject = {
  type: 'Sequence',
  pretokenizers: [{ type: 'Digits', individual_digits: true }, byteLevel(true)],
};

interface Rule {
  readonly pre_tokenizer: JsonObject;
  readonly normalizer?: JsonObject;
  /** Words that are tokens are not merged. */
  readonly ignore_merges?: boolean;
}

/** By `tokenizer.ggml.pre`, as src/llama-vocab.cpp has them. */
const RULES: Readonly<Record<string, Rule>> = {
  'gpt-2': { pre_tokenizer: byteLevel(true) },
  smollm: { pre_tokenizer: digitsApart },
  'llama-bpe': { pre_tokenizer: split('\\p{N}{1,3}'), ignore_merges: true },
  dbrx: { pre_tokenizer: split('\\p{N}{1,3}') },
  qwen2: { pre_tokenizer: split('\\p{N}'), normalizer: { type: 'NFC' } },
};

/** The folder, with the tokenizer's files out of its GGUF where it brings none. */
export function withTokenizerOfGguf(folder: FileSource): FileSource {
  let files: Promise<ReadonlyMap<string, unknown>> | undefined;
  return {
    name: folder.name,
    ...(folder.list && { list: () => folder.list!() }),
    async open(path) {
      const own = await folder.open(path);
      if (own !== undefined || !/^tokenizer(_config)?\.json$/.test(path)) return own;
      files ??= made(folder);
      const json = (await files).get(path);
      return json === undefined
        ? undefined
        : new MemorySource(`${folder.name}/${path}`, new TextEncoder().encode(JSON.stringify(json)));
    },
  };
}

async function made(folder: FileSource): Promise<ReadonlyMap<string, unknown>> {
  if ((await folder.open('tokenizer.json')) !== undefined) return new Map();
  const ggufs = ((await folder.list?.()) ?? []).filter((name) => /^[^/]*\.gguf$/.test(name));
  const source = ggufs.length === 1 ? await folder.open(ggufs[0]!) : undefined;
  if (source === undefined) return new Map();
  return filesOf(await openGguf(source));
}

function filesOf({ name, values }: GgufFile): ReadonlyMap<string, unknown> {
  const value = (key: string): unknown => values.get(`tokenizer.ggml.${key}`);
  const kind = value('model');
  if (kind === undefined || kind === 'none') return new Map();
  const refuse = (key: string, allowed: string): InputError =>
    new InputError(name, `metadata tokenizer.ggml.${key}`, `it is ${JSON.stringify(value(key))}`, allowed);
  if (kind !== 'gpt2') throw refuse('model', '"gpt2", or the tokenizer.json of the model beside the file');
  const pre = value('pre');
  const rule = typeof pre === 'string' && Object.hasOwn(RULES, pre) ? RULES[pre] : undefined;
  if (!rule)
    throw refuse('pre', `${Object.keys(RULES).join(', ')}, or the tokenizer.json of the model beside the file`);
  const tokens = value('tokens');
  const merges = value('merges') ?? [];
  const isTexts = (list: unknown): list is string[] => Array.isArray(list) && list.every((x) => typeof x === 'string');
  if (!isTexts(tokens) || !isTexts(merges)) {
    throw new InputError(
      name,
      'metadata tokenizer.ggml.tokens',
      'it is no list of texts',
      'tokens and merges as texts',
    );
  }
  const kinds = value('token_type');
  const kindOf = (id: number): unknown => (ArrayBuffer.isView(kinds) ? (kinds as Int32Array)[id] : undefined);
  // what only pads the embedding has a name and no more
  const count = tokens.findLastIndex((_, id) => kindOf(id) !== UNUSED) + 1;
  const added = [...tokens.slice(0, count).entries()].filter(([id]) =>
    [CONTROL, USER_DEFINED].includes(kindOf(id) as number),
  );
  const token = (key: string): string | undefined => {
    const id = value(`${key}_token_id`);
    return typeof id === 'number' && id < count ? tokens[id] : undefined;
  };
  const around = [
    ...(value('add_bos_token') === true ? [token('bos')] : []),
    undefined,
    ...(value('add_eos_token') === true ? [token('eos')] : []),
  ];
  const tokenizer = {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: added.map(([id, content]) => ({
      id,
      content,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special: kindOf(id) === CONTROL,
    })),
    normalizer: rule.normalizer ?? null,
    pre_tokenizer: rule.pre_tokenizer,
    post_processor: around.length > 1 ? templateOf(around, tokens) : byteLevel(true),
    decoder: byteLevel(true),
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: rule.ignore_merges ?? false,
      vocab: Object.fromEntries(tokens.slice(0, count).map((text, id) => [text, id])),
      merges,
    },
  };
  const names = { bos_token: 'bos', eos_token: 'eos', unk_token: 'unknown', pad_token: 'padding' };
  const template = values.get('tokenizer.chat_template');
  const config = {
    tokenizer_class: 'PreTrainedTokenizerFast',
    clean_up_tokenization_spaces: false,
    ...Object.fromEntries(Object.entries(names).map(([field, key]) => [field, token(key)])),
    ...(typeof template === 'string' && { chat_template: template }),
  };
  return new Map<string, unknown>([
    ['tokenizer.json', tokenizer],
    ['tokenizer_config.json', config],
  ]);
}

/** A text (undefined) with special tokens around it. */
function templateOf(around: readonly (string | undefined)[], tokens: readonly string[]): JsonObject {
  const special = around.filter((text) => text !== undefined);
  const single = around.map((id) =>
    id === undefined ? { Sequence: { id: 'A', type_id: 0 } } : { SpecialToken: { id, type_id: 0 } },
  );
  return {
    type: 'TemplateProcessing',
    single,
    pair: single,
    special_tokens: Object.fromEntries(special.map((id) => [id, { id, ids: [tokens.indexOf(id)], tokens: [id] }])),
  };
}
