import { existsSync, readFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { MemorySource, type FileSource } from '../formats/byte-source.ts';
import { InputError } from '../formats/input-error.ts';
import { readDamaged } from '../formats/mutation.testing.ts';
import { loadTokenizer, type LoadOptions } from './tokenizer.ts';

const REFERENCE = '../shared/reference';
const have = existsSync(`${REFERENCE}/smollm2/expected.json`);

function folder(path: string): FileSource {
  return {
    name: path,
    async open(name) {
      const file = `${path}/${name}`;
      return existsSync(file) ? new MemorySource(name, Uint8Array.from(readFileSync(file))) : undefined;
    },
  };
}

describe.skipIf(!have)('against Python’s tokenizers (skipped without ../shared/reference)', () => {
  it('gives SmolLM2’s ids, and its prompts and rows by the chat template', async () => {
    const tokenizer = await loadTokenizer(folder(`${REFERENCE}/smollm2`), { vocab_size: 49152 });
    const expected = JSON.parse(readFileSync(`${REFERENCE}/smollm2/expected.json`, 'utf8'));
    for (const { text, ids } of expected.texts) expect(tokenizer.encode(text), text).toEqual(ids);
    for (const { prompt, input_ids, greedy, text } of expected.prompts) {
      const rendered = tokenizer.chat_template!.render([{ role: 'user', content: prompt }], {
        add_generation_prompt: true,
      });
      expect(tokenizer.encode(rendered, { add_special_tokens: false })).toEqual(input_ids);
      expect(tokenizer.decode(greedy)).toBe(text);
    }
  });

  it('gives the ids and labels that TRL trained on', async () => {
    const tokenizer = await loadTokenizer(folder(`${REFERENCE}/sft_llama`), { vocab_size: 1024 });
    const rows = readFileSync(`${REFERENCE}/sft_llama/rows.jsonl`, 'utf8')
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line));
    const expected = JSON.parse(readFileSync(`${REFERENCE}/sft_llama/tokenized_train.json`, 'utf8'));
    expected.forEach((row: { input_ids: number[]; labels: number[] }, i: number) => {
      const { text, assistantSpans } = tokenizer.chat_template!.renderWithSpans(rows[i].messages);
      const ids = tokenizer.encode(text, { add_special_tokens: false });
      expect(ids.slice(0, 320)).toEqual(row.input_ids);
      const mask = tokenizer.mask(text, ids, assistantSpans);
      expect(ids.map((id, j) => (mask[j] ? id : -100)).slice(0, 320)).toEqual(row.labels);
    });
  });
});

describe('tokenizers that cannot be used', () => {
  const good = () => JSON.parse(readFileSync('public/bundled/arithmetic/tokenizer.json', 'utf8'));
  const config = { eos_token: '<|im_end|>', pad_token: '<|endoftext|>' };
  const load = (tokenizer: unknown, options: LoadOptions = {}, settings: unknown = config) => {
    const files = new Map<string, unknown>([
      ['tokenizer.json', tokenizer],
      ['tokenizer_config.json', settings],
    ]);
    return loadTokenizer(
      {
        name: 'model',
        async open(name) {
          const value = files.get(name);
          if (value === undefined) return undefined;
          const bytes =
            value instanceof Uint8Array
              ? value
              : new TextEncoder().encode(typeof value === 'string' ? value : JSON.stringify(value));
          return new MemorySource(name, Uint8Array.from(bytes));
        },
      },
      options,
    );
  };
  const withModel = (over: object) => ({ ...good(), model: { ...good().model, ...over } });

  it.each<[string, () => Promise<unknown>, string]>([
    ['there is none', () => load(undefined), 'model: has no tokenizer.json'],
    ['it is cut', () => load('{"model": {'), 'tokenizer.json: is not JSON ('],
    ['it is a list', () => load([]), 'tokenizer.json: is not a JSON object'],
    [
      'ids go beyond the model',
      () => load(good(), { vocab_size: 60 }),
      'tokenizer.json: token "w": has the id 60, and the model’s vocab_size is 60: ids below 60',
    ],
    [
      'an id is missing',
      () => load(withModel({ vocab: { ...good().model.vocab, z: 90 } })),
      'tokenizer.json: id 63: has no token: every id from 0 to 90 has one',
    ],
    [
      'two tokens share an id',
      () => load(withModel({ vocab: { ...good().model.vocab, z: 62 } })),
      'tokenizer.json: token "z": has the id 62, as "y" has: one token an id',
    ],
    [
      'an id is no number',
      () => load(withModel({ vocab: { a: '0' } })),
      'tokenizer.json: token "a": has the id "0": whole numbers from 0',
    ],
    [
      'an id is immense',
      () => load(withModel({ vocab: { ...good().model.vocab, z: 1e15 } })),
      'tokenizer.json: token "z": has the id 1000000000000000: ids below 16777216',
    ],
    [
      'a merge leads nowhere',
      () => load(withModel({ merges: ['a b', 'qq r'] })),
      'tokenizer.json: model.merges.1: names "qq", which the vocabulary lacks',
    ],
    ['it has no vocabulary', () => load(withModel({ vocab: null })), 'tokenizer.json: model.vocab: is missing'],
    ['its kind is unknown', () => load(withModel({ type: 'Magic' })), 'tokenizer.json: model.type: is "Magic"'],
    [
      'its end token is unknown',
      () => load(good(), {}, { eos_token: '<end>' }),
      'tokenizer.json: eos_token: is "<end>", which the vocabulary lacks',
    ],
  ])('are refused where %s', async (_, attempt, words) => {
    await expect(attempt()).rejects.toThrow(InputError);
    await expect(attempt()).rejects.toThrow(words);
  });

  it('are refused, or encode and decode, 1,000 times', async () => {
    const bytes = new TextEncoder().encode(JSON.stringify(good()));
    const outcomes = await readDamaged([bytes], 1000, async (damaged) => {
      const tokenizer = await load(damaged, { vocab_size: 64 });
      tokenizer.decode(tokenizer.encode('47 + 38 = ?'));
    });
    expect(outcomes.read).toBeGreaterThan(20);
    expect(outcomes.refused).toBeGreaterThan(50);
  }, 60_000);

  it('pad with their end where they name no padding', async () => {
    expect((await load(good(), {}, { eos_token: '<|im_end|>' })).pad_token_id).toBe(2);
  });
});

describe('offsets', () => {
  it.skipIf(!have).each(['smollm2', 'sft_llama'])('cover the text, character by character (%s)', async (name) => {
    const tokenizer = await loadTokenizer(folder(`${REFERENCE}/${name}`));
    const encodable = fc.string({ unit: 'grapheme', minLength: 1, maxLength: 60 });
    fc.assert(
      fc.property(encodable, (text) => {
        const ids = tokenizer.encode(text, { add_special_tokens: false });
        const offsets = tokenizer.offsets(text, ids);
        expect(offsets).toHaveLength(ids.length);
        expect(offsets![0]![0]).toBe(0);
        expect(offsets!.at(-1)![1]).toBe(text.length);
        offsets!.forEach(([start, end], i) => {
          expect(end).toBeGreaterThan(start);
          if (i > 0) expect(start).toBeLessThanOrEqual(offsets![i - 1]![1]);
        });
      }),
      { numRuns: 500 },
    );
  });

  it.skipIf(!have)('mask the same tokens with and without surfaces', async () => {
    const tokenizer = await loadTokenizer(folder(`${REFERENCE}/sft_llama`));
    const blind = await loadTokenizer(folder(`${REFERENCE}/sft_llama`));
    blind.offsets = () => undefined;
    const rows = readFileSync(`${REFERENCE}/sft_llama/rows.jsonl`, 'utf8').trim().split('\n').slice(0, 20);
    for (const row of rows) {
      const { text, assistantSpans } = tokenizer.chat_template!.renderWithSpans(JSON.parse(row).messages);
      const ids = tokenizer.encode(text, { add_special_tokens: false });
      expect(blind.mask(text, ids, assistantSpans)).toEqual(tokenizer.mask(text, ids, assistantSpans));
    }
  });
});
