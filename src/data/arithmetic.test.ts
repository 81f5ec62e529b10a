import { existsSync, readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { MemorySource, type FileSource } from '../formats/byte-source.ts';
import { loadTokenizer } from '../models/tokenizer.ts';
import { parseRecipe } from '../recipe/parse.ts';
import { answerOf, arithmeticRows, MOST_TOKENS } from './arithmetic.ts';
import { bundledFiles } from './bundled.ts';
import { permutation } from './random.ts';

const files: FileSource = {
  name: 'bundled:arithmetic',
  async open(name) {
    const path = `public/bundled/arithmetic/${name}`;
    return existsSync(path) ? new MemorySource(name, Uint8Array.from(readFileSync(path))) : undefined;
  },
};

/** Evaluates every "x ± y (± 1) = z" of a thought. */
const equations = (thought: string) =>
  [...thought.matchAll(/(\d+(?: [+-] \d+)+) = (\d+)/g)].map(([, left, right]) => {
    const [first, ...rest] = left!.split(/ (?=[+-])/);
    return [rest.reduce((sum, term) => sum + Number(term.replace(' ', '')), Number(first)), Number(right)];
  });

describe('arithmeticRows', () => {
  const train = arithmeticRows(7, 20_000, 'train');
  const test = arithmeticRows(8, 500, 'test');

  it('writes right answers by right steps', () => {
    for (const { messages } of [...train, ...test]) {
      const [, a, sign, b] = /^(\d+) ([+-]) (\d+) = \?$/.exec(messages[0].content)!;
      const right = sign === '+' ? Number(a) + Number(b) : Number(a) - Number(b);
      expect(answerOf(messages[1].content)).toBe(String(right));
      for (const [left, written] of equations(messages[1].content)) expect(left, messages[1].content).toBe(written);
    }
    expect(train.some(({ messages }) => messages[1].content.includes(', carry 1'))).toBe(true);
    expect(train.some(({ messages }) => messages[1].content.includes(', borrow 1'))).toBe(true);
  });

  it('is a function of the seed, and never shows a test problem in training', () => {
    expect(arithmeticRows(7, 50, 'train')).toEqual(train.slice(0, 50));
    expect(arithmeticRows(9, 50, 'train')).not.toEqual(train.slice(0, 50));
    const asked = new Set(train.map(({ messages }) => messages[0].content));
    expect(test.filter(({ messages }) => asked.has(messages[0].content))).toEqual([]);
    expect(new Set(test.map(({ messages }) => messages[0].content)).size).toBe(500);
  });

  it('goes on when there are no more problems', () => {
    expect(new Set(arithmeticRows(1, 9000, 'test').map(({ messages }) => messages[0].content)).size).toBeLessThan(
      20_000,
    );
  });
});

describe('answerOf', () => {
  it.each([
    ['<think>7 + 8 = 15</think> 85', '85'],
    ['<think>7 + 8 = 15</think> 85<|im_end|>\n', '85'],
    ['<think>7 + 8 = 15, write', ''],
    ['He pays 3 * 4 = 12.\n#### 1,234', '1234'],
    [' $72. ', '72'],
    ['', ''],
  ])('reads %j as %j', (text, answer) => {
    expect(answerOf(text)).toBe(answer);
  });
});

describe('permutation', () => {
  it('holds every number once, by seed and stream', () => {
    const order = permutation(1000, 1, 2);
    expect([...order].sort((a, b) => a - b)).toEqual(Array.from({ length: 1000 }, (_, i) => i));
    expect(permutation(1000, 1, 2)).toEqual(order);
    expect(permutation(1000, 1, 3)).not.toEqual(order);
    expect(permutation(1000, 2, 2)).not.toEqual(order);
    expect(permutation(0, 1, 2)).toHaveLength(0);
  });

  it('is fair: each of 3! orders about equally often', () => {
    const counts = new Map<string, number>();
    for (let stream = 0; stream < 6000; stream++) {
      const order = permutation(3, 5, stream).join('');
      counts.set(order, (counts.get(order) ?? 0) + 1);
    }
    expect(counts.size).toBe(6);
    // Expected 1000 each, standard deviation 29: five of them either way.
    for (const count of counts.values()) expect(Math.abs(count - 1000)).toBeLessThan(145);
  });
});

describe('the bundled files', () => {
  it('are current (else: node scripts/bundled-arithmetic.mjs)', () => {
    for (const [path, text] of Object.entries(bundledFiles())) {
      expect(readFileSync(`public/bundled/${path}`, 'utf8'), path).toBe(text);
    }
  });

  it('hold recipes that are accepted', () => {
    for (const name of ['recipe.json', 'recipe-text-alone.json']) {
      parseRecipe(JSON.parse(readFileSync(`public/bundled/${name}`, 'utf8')), name);
    }
  });

  it('give the ids that transformers 5 gives (written down from Python)', async () => {
    const tokenizer = await loadTokenizer(files, { vocab_size: 64 });
    expect(tokenizer).toMatchObject({ vocab_size: 64, bos_token_id: 1, eos_token_id: 2, pad_token_id: 0 });
    const python: [string, number[], string][] = [
      ['hello world', [45, 42, 49, 49, 52, 26, 60, 52, 55, 49, 41], 'hello world'],
      ['Ünïcode 😀 12', [3, 51, 3, 40, 52, 41, 42, 26, 3, 26, 17, 18], '<unk>n<unk>code <unk> 12'],
      ['a + b = c; , write 5', [38, 9, 39, 11, 40, 15, 12, 21], 'a + b = c; , write 5'],
      ['user assistant system<think>', [7, 26, 8, 26, 6, 4], 'user assistant system<think>'],
    ];
    for (const [text, ids, decoded] of python) {
      expect(tokenizer.encode(text)).toEqual(ids);
      expect(tokenizer.decode(ids)).toBe(decoded);
    }
  });

  it('keep every row within the promised tokens, labels from <think> to <|im_end|>', async () => {
    const tokenizer = await loadTokenizer(files);
    let longest = 0;
    for (const { messages } of arithmeticRows(3, 2000, 'train')) {
      const { text, assistantSpans } = tokenizer.chat_template!.renderWithSpans(messages);
      const ids = tokenizer.encode(text, { add_special_tokens: false });
      longest = Math.max(longest, ids.length);
      const mask = tokenizer.mask(text, ids, assistantSpans);
      const counted = ids.filter((_, i) => mask[i]);
      expect(tokenizer.decode(counted)).toBe(`${messages[1].content}<|im_end|>`);
      expect(ids).not.toContain(3);
    }
    expect(longest).toBe(MOST_TOKENS);
  });
});
