/**
 * tokenizer.json ─▶ the `tokenizer.*` values of a GGUF, as llama.cpp reads them (src/llama-vocab.cpp).
 *
 *   byte-level BPE      model `gpt2`: tokens, merges, and the name of the rule that cuts text into words
 *   BPE of characters   model `llama` (SentencePiece's BPE: Llama 2, Mistral, Phi-3): tokens with scores. There the pair
 *                       with the best score is merged first, here the pair of the earliest merge: so a token's score is
 *                       minus the number of the first merge that makes it
 *
 * What has no form there leaves the file without tokenizer, and is said.
 */
import type { GgufEntry } from '../../formats/gguf-write.ts';
import { isJsonObject, type JsonObject } from '../../formats/strict-json.ts';
import type { RawConfig } from '../../models/config.ts';
import { withoutGeneration } from '../../models/chat-template.ts';
import type { SmallFile } from '../folder.ts';

/** llama.cpp's names of what a token is. */
const NORMAL = 1;
const UNKNOWN = 2;
const CONTROL = 3;
const USER_DEFINED = 4;
const UNUSED = 5;
const BYTE = 6;

/** Regular expressions of tokenizer.json and the name under which llama.cpp splits so. */
const SPLITS: Readonly<Record<string, string>> = {
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+":
    'llama-bpe',
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+":
    'qwen2',
};

export interface GgufTokenizer {
  readonly entries: readonly GgufEntry[];
  /** Why llama.cpp cannot split text as the tokenizer does; undefined where it can. */
  readonly trouble?: string;
}

/** @param files those of the exported folder; none where the model has no tokenizer */
export function ggufTokenizer(files: readonly SmallFile[], config: RawConfig, vocabSize: number): GgufTokenizer {
  const tokenizer = jsonOf(files, 'tokenizer.json');
  if (!tokenizer) return { entries: noTokenizer };
  const model = isJsonObject(tokenizer.model) ? tokenizer.model : {};
  const vocab = isJsonObject(model.vocab) ? model.vocab : undefined;
  if (vocab === undefined || (model.type ?? 'BPE') !== 'BPE') {
    return { entries: noTokenizer, trouble: `its tokenizer is ${String(model.type)}` };
  }
  const byteLevel = JSON.stringify([tokenizer.pre_tokenizer, tokenizer.decoder]).includes('"ByteLevel"');
  const tokens = tokensOf(vocab, addedTokens(tokenizer), model, vocabSize, byteLevel);
  const merges = mergesOf(model);
  const settings = jsonOf(files, 'tokenizer_config.json') ?? {};
  const shared = [
    ...listed(tokens),
    ...specialIds(tokens.texts, settings, config),
    ...flags(addedAround(tokenizer, settings)),
    ...chatTemplate(settings),
  ];
  if (!byteLevel) {
    const entries: GgufEntry[] = [
      string('tokenizer.ggml.model', 'llama'),
      string('tokenizer.ggml.pre', 'default'),
      { key: 'tokenizer.ggml.scores', type: 'f32[]', value: scoresOf(tokens.texts, merges) },
      { key: 'tokenizer.ggml.add_space_prefix', type: 'bool', value: addsSpace(tokenizer) },
      ...shared,
    ];
    return { entries };
  }
  const split = splitOf(tokenizer, model.ignore_merges === true);
  const entries: GgufEntry[] = [
    string('tokenizer.ggml.model', 'gpt2'),
    string('tokenizer.ggml.pre', split ?? 'default'),
    { key: 'tokenizer.ggml.merges', type: 'string[]', value: merges.map((pair) => pair.join(' ')) },
    ...shared,
  ];
  return split === undefined ? { entries, trouble: 'it cuts text into words by a rule of its own' } : { entries };
}

const string = (key: string, value: string): GgufEntry => ({ key, type: 'string', value });

/** llama.cpp then takes and gives token ids only. */
const noTokenizer: readonly GgufEntry[] = [string('tokenizer.ggml.model', 'none')];

interface Tokens {
  readonly texts: readonly string[];
  readonly kinds: readonly number[];
}

function listed({ texts, kinds }: Tokens): GgufEntry[] {
  return [
    { key: 'tokenizer.ggml.tokens', type: 'string[]', value: texts },
    { key: 'tokenizer.ggml.token_type', type: 'i32[]', value: kinds },
  ];
}

/** As many as the embedding has rows: those that the tokenizer does not know are there by name only. */
function tokensOf(
  vocab: JsonObject,
  added: readonly JsonObject[],
  model: JsonObject,
  vocabSize: number,
  byteLevel: boolean,
): Tokens {
  const texts = Array.from({ length: vocabSize }, (_, id) => `[PAD${id}]`);
  const kinds = new Array<number>(vocabSize).fill(UNUSED);
  for (const [text, id] of Object.entries(vocab)) {
    if (typeof id !== 'number' || id >= vocabSize) continue;
    texts[id] = text;
    kinds[id] = !byteLevel && /^<0x[0-9A-F]{2}>$/.test(text) ? BYTE : text === model.unk_token ? UNKNOWN : NORMAL;
  }
  for (const { id, content, special } of added) {
    if (typeof id !== 'number' || typeof content !== 'string' || id >= vocabSize) continue;
    texts[id] = content;
    if (kinds[id] !== UNKNOWN) kinds[id] = special === true ? CONTROL : USER_DEFINED;
  }
  return { texts, kinds };
}

function addedTokens({ added_tokens }: JsonObject): JsonObject[] {
  return Array.isArray(added_tokens) ? added_tokens.filter(isJsonObject) : [];
}

function mergesOf({ merges }: JsonObject): [string, string][] {
  if (!Array.isArray(merges)) return [];
  return merges.map((merge) => {
    const pair: unknown[] = typeof merge === 'string' ? merge.split(' ') : (merge as unknown[]);
    return [String(pair[0]), String(pair[1])];
  });
}

/** A token that no merge makes is never made: its score only has to be finite. */
function scoresOf(texts: readonly string[], merges: readonly [string, string][]): number[] {
  const first = new Map<string, number>();
  merges.forEach(([left, right], i) => {
    const made = left + right;
    if (!first.has(made)) first.set(made, i);
  });
  return texts.map((text) => -(first.get(text) ?? merges.length));
}

/** How text is cut into words before anything is merged. */
function splitOf(tokenizer: JsonObject, ignoreMerges: boolean): string | undefined {
  const outer = tokenizer.pre_tokenizer;
  if (!isJsonObject(outer)) return undefined;
  const steps = outer.type === 'Sequence' ? (outer.pretokenizers as JsonObject[]) : [outer];
  const last = steps.at(-1);
  if (last?.type !== 'ByteLevel' || last.add_prefix_space === true) return undefined;
  if (steps.length === 1) return last.use_regex === false ? undefined : 'gpt-2';
  const [before] = steps;
  if (steps.length > 2 || before === undefined) return undefined;
  if (before.type === 'Digits') {
    return before.individual_digits === true && last.use_regex !== false ? 'smollm' : undefined;
  }
  const pattern = isJsonObject(before.pattern) ? before.pattern.Regex : undefined;
  if (before.type !== 'Split' || before.behavior !== 'Isolated' || before.invert === true) return undefined;
  if (typeof pattern !== 'string' || last.use_regex !== false || !Object.hasOwn(SPLITS, pattern)) return undefined;
  // under the name of Llama 3, words that are tokens are not merged; the same rule with merging has another name
  const name = SPLITS[pattern];
  return name === 'llama-bpe' && !ignoreMerges ? 'dbrx' : name;
}

/** SentencePiece's habit of a space before the text. */
function addsSpace({ normalizer, pre_tokenizer }: JsonObject): boolean {
  const parts = JSON.stringify([normalizer, pre_tokenizer]);
  return /"prepend":"▁"|"prepend_scheme":"(first|always)"|"add_prefix_space":true/.test(parts);
}

const SPECIAL: readonly (readonly [name: string, field: string])[] = [
  ['bos', 'bos_token'],
  ['eos', 'eos_token'],
  ['unknown', 'unk_token'],
  ['padding', 'pad_token'],
];

/** By the tokenizer's own names, else by the config's ids; a second end of text is that of a turn. */
function specialIds(texts: readonly string[], settings: JsonObject, config: RawConfig): GgufEntry[] {
  const ids = new Map<string, number>();
  for (const [name, field] of SPECIAL) {
    const value = settings[field];
    const text = isJsonObject(value) ? value.content : value;
    const listed = [config[`${field}_id`]].flat();
    const id = typeof text === 'string' ? texts.indexOf(text) : -1;
    const found = id >= 0 ? id : listed.find((one) => typeof one === 'number');
    if (typeof found === 'number') ids.set(name, found);
  }
  const ends = [config.eos_token_id].flat().filter((id) => typeof id === 'number' && id !== ids.get('eos'));
  if (typeof ends[0] === 'number') ids.set('eot', ends[0]);
  return [...ids].map(([name, value]) => ({ key: `tokenizer.ggml.${name}_token_id`, type: 'u32', value }));
}

/** Whether the tokenizer puts its begin and end around a text. */
export function addedAround(tokenizer: JsonObject, settings: JsonObject): { bos: boolean; eos: boolean } {
  const post = tokenizer.post_processor;
  const steps = isJsonObject(post) ? (Array.isArray(post.processors) ? (post.processors as JsonObject[]) : [post]) : [];
  const template = steps.find((step) => step.type === 'TemplateProcessing')?.single;
  const around = Array.isArray(template) ? template.filter(isJsonObject) : [];
  if (around.length === 0) return { bos: settings.add_bos_token === true, eos: settings.add_eos_token === true };
  return { bos: 'SpecialToken' in around[0]!, eos: 'SpecialToken' in around.at(-1)! };
}

function flags({ bos, eos }: { bos: boolean; eos: boolean }): GgufEntry[] {
  return [
    { key: 'tokenizer.ggml.add_bos_token', type: 'bool', value: bos },
    { key: 'tokenizer.ggml.add_eos_token', type: 'bool', value: eos },
  ];
}

function chatTemplate({ chat_template }: JsonObject): GgufEntry[] {
  return typeof chat_template === 'string' ? [string('tokenizer.chat_template', withoutGeneration(chat_template))] : [];
}

export function jsonOf(files: readonly SmallFile[], path: string): JsonObject | undefined {
  const file = files.find((one) => one.path === path);
  if (!file) return undefined;
  const value: unknown = JSON.parse(new TextDecoder().decode(file.bytes));
  return isJsonObject(value) ? value : undefined;
}
