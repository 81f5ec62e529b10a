/** Trimmed tokenizers cut the rows as before and can write anything; a trimmed model's logits are rows of the whole one's. */
import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { realModel } from '../../scripts/real-models.mjs';
import { nodeFolder } from '../cli/node-files.ts';
import { testDevice } from '../engine/testing.ts';
import { MemorySource, readText, type FileSource } from '../formats/byte-source.ts';
import { tinyEncoderFolder } from './architectures/tiny-encoder.testing.ts';
import { isEncoder } from './architectures/index.ts';
import { encodedSequences } from './encoder-outputs.ts';
import { sequenceLogits } from './logits.ts';
import { openAnyModel } from './model.ts';
import { loadParameters } from './on-device.ts';
import { byteLevelBpe, END, tinyDecoderFolder } from './tiny-decoder.testing.ts';
import { loadTokenizer, type Tokenizer } from './tokenizer.ts';
import { namedIds, newIds, TokenUse, trimFolder, trimVocabulary, type KeptTokens } from './trim-vocabulary.ts';

const text = (value: object): Uint8Array<ArrayBuffer> => new TextEncoder().encode(JSON.stringify(value));

function folderOf(tokenizer: object, config: object = {}): FileSource {
  const files = new Map([
    ['tokenizer.json', text(tokenizer)],
    ['tokenizer_config.json', text(config)],
  ]);
  return {
    name: 'model',
    open: async (path) => (files.has(path) ? new MemorySource(path, files.get(path)!) : undefined),
  };
}

interface Trimmed {
  readonly whole: Tokenizer;
  readonly own: Tokenizer;
  readonly tokens: KeptTokens;
  readonly folder: FileSource;
}

async function trimmedFor(folder: FileSource, rows: readonly string[]): Promise<Trimmed> {
  const whole = await loadTokenizer(folder);
  const use = await TokenUse.of(folder, whole);
  for (const row of rows) whole.encode(row);
  const tokens = use.kept([]);
  const left = trimFolder(folder, tokens);
  return { whole, own: await loadTokenizer(left), tokens, folder: left };
}

function expectSame({ whole, own, tokens }: Trimmed, rows: readonly string[]): void {
  const ids = newIds(tokens);
  for (const row of rows) expect(own.encode(row), row).toEqual(whole.encode(row).map((id) => ids[id]));
}

const json = async (folder: FileSource, path: string): Promise<Record<string, never>> =>
  JSON.parse(await readText((await folder.open(path))!));

const added = (id: number, content: string) => ({
  ...{ id, content, special: true, single_word: false, lstrip: false, rstrip: false, normalized: false },
});

describe('BPE', () => {
  const learned = ['the cat sat on the mat and the rat sat too', 'théâtre 猫が座った'];
  const words = fc.array(fc.constantFrom('t', 'h', 'e', 'a', 's', 'm', 'r', ' ', 'é', '猫'), { maxLength: 14 });
  const rows = fc.array(
    words.map((parts) => parts.join('')),
    { minLength: 1, maxLength: 6 },
  );

  it('of bytes: any rows are cut as before, and any text comes back', async () => {
    await fc.assert(
      fc.asyncProperty(
        rows,
        fc.string({ unit: 'grapheme' }),
        fc.integer({ min: 0, max: 40 }),
        async (rows, other, merges) => {
          const trimmed = await trimmedFor(folderOf(byteLevelBpe(learned, merges)), rows);
          expectSame(trimmed, rows);
          const decoded = trimmed.own.decode(trimmed.own.encode(other));
          expect(decoded).toBe(trimmed.whole.decode(trimmed.whole.encode(other)));
        },
      ),
      { numRuns: 60 },
    );
  });

  it('with random rules, which no training would give: the same', async () => {
    const letters = ['a', 'b', 'c'];
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(fc.nat(60), fc.nat(60)), { maxLength: 25 }),
        fc.array(fc.string({ unit: fc.constantFrom(...letters), maxLength: 12 }), { minLength: 1, maxLength: 3 }),
        async (choices, rows) => {
          const tokens = [...letters];
          const merges: string[][] = [];
          for (const [i, j] of choices) {
            const [left, right] = [tokens[i % tokens.length]!, tokens[j % tokens.length]!];
            if (merges.some(([l, r]) => l === left && r === right) || (left + right).length > 9) continue;
            merges.push([left, right]);
            if (!tokens.includes(left + right)) tokens.push(left + right);
          }
          const vocab = Object.fromEntries(tokens.map((token, id) => [token, id]));
          const trimmed = await trimmedFor(folderOf({ model: { type: 'BPE', vocab, merges } }), rows);
          expectSame(trimmed, rows);
        },
      ),
      { numRuns: 300 },
    );
  });

  it('keeps what a derivation goes through, and no more', async () => {
    const tokens = ['a', 'b', 'c', 'ab', 'abc', 'bc', 'ca', 'cab'];
    const vocab = Object.fromEntries(tokens.map((token, id) => [token, id]));
    const merges = ['a b', 'ab c', 'b c', 'c a', 'c ab'];
    const { own, folder } = await trimmedFor(folderOf({ model: { type: 'BPE', vocab, merges } }), ['abc']);
    const { model } = await json(folder, 'tokenizer.json');
    expect(model).toMatchObject({ vocab: { a: 0, b: 1, c: 2, ab: 3, abc: 4 }, merges: ['a b', 'ab c'] });
    expect(own.encode('cab')).toEqual([2, 3]);
  });

  it('like SentencePiece’s: bytes stand in for characters that are gone', async () => {
    const bytes = Array.from({ length: 256 }, (_, i) => `<0x${i.toString(16).toUpperCase().padStart(2, '0')}>`);
    const tokens = ['<unk>', ...bytes, '▁', 'a', 'b', 'é', '猫', '▁a', 'é猫'];
    const trimmed = await trimmedFor(
      folderOf({
        model: {
          ...{ type: 'BPE', unk_token: '<unk>', fuse_unk: true, byte_fallback: true },
          vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
          merges: ['▁ a', 'é 猫'],
        },
        normalizer: { type: 'Replace', pattern: { String: ' ' }, content: '▁' },
        decoder: {
          type: 'Sequence',
          decoders: [
            { type: 'Replace', pattern: { String: '▁' }, content: ' ' },
            { type: 'ByteFallback' },
            { type: 'Fuse' },
          ],
        },
      }),
      ['é a'],
    );
    expectSame(trimmed, ['é a', 'é aé']);
    expect(trimmed.own.idOf('猫')).toBeUndefined();
    expect(trimmed.own.idOf('é猫')).toBeUndefined();
    expect(trimmed.own.decode(trimmed.own.encode('é猫 b'))).toBe('é猫 b');
  });

  it('moves every id that a file names, and leaves no file that names the old ones', async () => {
    const folder = tinyDecoderFolder('./tiny', ['low lower lowest new newest'], { merges: 30 });
    const { own, tokens, folder: left } = await trimmedFor(folder, ['lower']);
    expect(tokens.kept.length).toBeLessThan(tokens.of);
    const end = own.vocab_size - 1;
    expect(own.eos_token_id).toBe(end);
    expect((await json(left, 'tokenizer_config.json')).added_tokens_decoder).toEqual({ [end]: { content: END } });
    expect(await json(left, 'generation_config.json')).toEqual({
      eos_token_id: end,
      suppress_tokens: [0, end],
    });
    expect(await left.open('merges.txt')).toBeUndefined();
    expect(await left.list!()).not.toContain('merges.txt');
  });

  it('with marks at the ends of words is refused', async () => {
    const folder = folderOf({ model: { type: 'BPE', vocab: { 'a</w>': 0 }, merges: [], end_of_word_suffix: '</w>' } });
    await expect(TokenUse.of(folder, await loadTokenizer(folder))).rejects.toThrow(/end_of_word_suffix.*trimmed/);
  });
});

describe('WordPiece', () => {
  const pieces = ['[UNK]', '[CLS]', 'a', 'b', 'ab', 'abc', '##a', '##b', '##c', '##ab', '##bc', '##cd'];
  const tokenizer = {
    added_tokens: [added(0, '[UNK]'), added(1, '[CLS]')],
    pre_tokenizer: { type: 'WhitespaceSplit' },
    post_processor: {
      type: 'TemplateProcessing',
      single: [{ SpecialToken: { id: '[CLS]', type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }],
      special_tokens: { '[CLS]': { id: '[CLS]', ids: [1], tokens: ['[CLS]'] } },
    },
    decoder: { type: 'WordPiece', prefix: '##', cleanup: false },
    model: {
      ...{ type: 'WordPiece', unk_token: '[UNK]', continuing_subword_prefix: '##', max_input_chars_per_word: 9 },
      vocab: Object.fromEntries(pieces.map((piece, id) => [piece, id])),
    },
  };

  it('any rows are cut as before, unknown words too', async () => {
    const row = fc.string({ unit: fc.constantFrom('a', 'b', 'c', 'd', ' '), maxLength: 16 });
    await fc.assert(
      fc.asyncProperty(fc.array(row, { minLength: 1, maxLength: 4 }), async (rows) => {
        expectSame(await trimmedFor(folderOf(tokenizer), rows), rows);
      }),
      { numRuns: 300 },
    );
  });

  it('a word that led to a dead end still does', async () => {
    // after abc nothing fits d; were abc gone, it could be ab ##cd
    const rows = ['abcd', 'ab', 'bcd'];
    const trimmed = await trimmedFor(folderOf(tokenizer), rows);
    expect(trimmed.whole.encode('abcd')).toEqual([1, 0]);
    expectSame(trimmed, rows);
    expect(trimmed.own.idOf('abc')).toBeDefined();
    expect(trimmed.own.idOf('##bc')).toBeUndefined();
    expect(trimmed.own.decode(trimmed.own.encode('bab'), { skip_special_tokens: true })).toBe('bab');
  });
});

describe('Unigram', () => {
  const vocab: [string, number][] = [
    ['<unk>', 0],
    ...(['▁', 'a', 'b', 'c'] as const).map((token, i): [string, number] => [token, -4 - i]),
    ...(['▁a', 'ab', 'bc', 'abc', '▁ab', 'cab', 'zz'] as const).map((token, i): [string, number] => [
      token,
      -2 - i * 1.3,
    ]),
  ];
  const tokenizer = {
    added_tokens: [added(0, '<unk>')],
    pre_tokenizer: { type: 'Metaspace', replacement: '▁', add_prefix_space: true, prepend_scheme: 'always' },
    decoder: { type: 'Metaspace', replacement: '▁', add_prefix_space: true, prepend_scheme: 'always' },
    model: { type: 'Unigram', unk_id: 0, vocab },
  };

  it('any rows are cut as before, characters that nothing knows too', async () => {
    const row = fc.string({ unit: fc.constantFrom('a', 'b', 'c', 'z', '☃', ' '), minLength: 1, maxLength: 16 });
    await fc.assert(
      fc.asyncProperty(fc.array(row, { minLength: 1, maxLength: 4 }), async (rows) => {
        expectSame(await trimmedFor(folderOf(tokenizer), rows), rows);
      }),
      { numRuns: 200 },
    );
    const { own } = await trimmedFor(folderOf(tokenizer), ['ab']);
    expect(own.vocab_size).toBeLessThan(vocab.length);
    expect(own.decode(own.encode('cab abc'))).toBe('cab abc');
  });

  it('an unknown character stays as unlikely as it was', async () => {
    // xa b c beats the unknown x with abc, as long as the unknown is made from zz
    const scores = { '<unk>': 0, a: -9, b: -9, c: -9, xa: -9, abc: -1, zz: -30 };
    const model = { type: 'Unigram', unk_id: 0, vocab: Object.entries(scores) };
    const rows = ['xabc', 'abc'];
    const trimmed = await trimmedFor(folderOf({ model }), rows);
    expect(trimmed.whole.encode('xabc')).toEqual([4, 2, 3]);
    expectSame(trimmed, rows);
  });
});

describe('the ids that a config names', () => {
  it('are found in whatever is called one, also of a text model inside', () => {
    const config = { eos_token_id: [5, 6], pad_token_id: null, hidden_size: 9, text_config: { boi_token_index: 7 } };
    expect(namedIds(config)).toEqual([5, 6, 7]);
  });
});

describe('a trimmed model', { timeout: 300_000 }, () => {
  const texts = ['the cat sat on the mat', 'a rat ran to the cat'];

  it.each([
    ['tied, rows to spare', { tied: true, padding: 7 }],
    ['untied', { tied: false, padding: 0 }],
  ])('gives the logits of the tokens that stayed, exactly: %s', async (_, shape) => {
    const folder = tinyDecoderFolder('./tiny', texts, shape);
    const { whole, own, tokens, folder: left } = await trimmedFor(folder, texts.slice(0, 1));
    const model = await openAnyModel(folder);
    const trimmed = trimVocabulary(model, tokens, left);
    expect(trimmed.config).toMatchObject({
      vocab_size: own.vocab_size,
      eos_token_id: [own.eos_token_id],
      pad_token_id: -1,
    });
    const device = await testDevice();
    const logitsOf = async (of: typeof model, ids: number[]): Promise<Float32Array> => {
      if (isEncoder(of.options)) throw new Error('a decoder');
      const [result] = await sequenceLogits(device, of.options, await loadParameters(device, of), [ids]);
      return result!.logits;
    };
    const before = await logitsOf(model, whole.encode(texts[0]!));
    const after = await logitsOf(trimmed, own.encode(texts[0]!));
    expect(after.length).toBeLessThan(before.length);
    expect([...after]).toEqual(rowsOf(before, model.options.vocab_size, tokens.kept));
  });

  it.each(['bert', 'distilbert'] as const)('of an encoder too, the head’s bias with its rows: %s', async (name) => {
    const folder = await tinyEncoderFolder(name);
    const row = 'w3 w30 w7 w7';
    const { whole, own, tokens, folder: left } = await trimmedFor(folder, [row]);
    // five special tokens and three words
    expect(own.vocab_size).toBe(8);
    const model = await openAnyModel(folder);
    const trimmed = trimVocabulary(model, tokens, left);
    const device = await testDevice();
    const logitsOf = async (of: typeof model, ids: number[]): Promise<Float32Array> => {
      if (!isEncoder(of.options)) throw new Error('an encoder');
      const [result] = await encodedSequences(device, of.options, await loadParameters(device, of), [ids]);
      return result!.logits;
    };
    const before = await logitsOf(model, whole.encode(row));
    expect([...(await logitsOf(trimmed, own.encode(row)))]).toEqual(
      rowsOf(before, model.options.vocab_size, tokens.kept),
    );
  });

  function rowsOf(logits: Float32Array, width: number, kept: readonly number[]): number[] {
    return Array.from({ length: logits.length / width }, (_, place) =>
      kept.map((id) => logits[place * width + id]!),
    ).flat();
  }
});

const real = realModel('smollm2');
describe.skipIf(real === undefined)('SmolLM2’s tokenizer (skipped without it)', { timeout: 120_000 }, () => {
  it('keeps what the bundled arithmetic needs of 49,152 tokens, and reads and writes anything', async () => {
    const rows = readFileSync('public/bundled/arithmetic/rows.jsonl', 'utf8')
      .trim()
      .split('\n')
      .map((line) => (JSON.parse(line) as { messages: { role: string; content: string }[] }).messages);
    const folder = nodeFolder(real!);
    const { chat_template } = await loadTokenizer(folder);
    const texts = rows.map((messages) => chat_template!.render(messages));
    const trimmed = await trimmedFor(folder, texts);
    expectSame(trimmed, texts);
    expect(trimmed.tokens.of).toBe(49152);
    expect(trimmed.tokens.kept.length).toBeLessThan(600);
    const other = 'Größe, 猫 and 🙂: def f(x): return x ** 2\n\n\tthe end';
    expect(trimmed.own.decode(trimmed.own.encode(other))).toBe(other);
    expect(trimmed.own.encode(other).length).toBeGreaterThan(trimmed.whole.encode(other).length);
  });
});
