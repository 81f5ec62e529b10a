import { existsSync, readFileSync } from 'node:fs';
import { gzipSync } from 'node:zlib';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { MemorySource, type ByteSource } from '../formats/byte-source.ts';
import { InputError } from '../formats/input-error.ts';
import { readDamaged } from '../formats/mutation.testing.ts';
import { inspectDataset, readDataset } from './dataset.ts';
import { readRecords } from './read.ts';

const SHARED = '../shared/data';
const bytesOf = (text: string) => new TextEncoder().encode(text);
const source = (text: string | Uint8Array, name = 'rows.jsonl') =>
  new MemorySource(name, typeof text === 'string' ? bytesOf(text) : Uint8Array.from(text));

const refusal = async (from: ByteSource): Promise<string> => {
  try {
    await readDataset(from);
  } catch (error) {
    expect(error).toBeInstanceOf(InputError);
    return (error as InputError).message;
  }
  throw new Error('was accepted');
};

const user = { role: 'user', content: 'q' };
const assistant = { role: 'assistant', content: 'a' };

describe('readDataset', () => {
  it.each<[string, object, object]>([
    ['messages', { messages: [user, assistant] }, { messages: [user, assistant] }],
    [
      'messages',
      { messages: [{ role: 'user', content: [{ type: 'text', text: 'q' }] }, assistant], tools: '[{"name":"f"}]' },
      { messages: [user, assistant], tools: [{ name: 'f' }] },
    ],
    [
      'sharegpt',
      {
        conversations: [
          { from: 'human', value: 'q' },
          { from: 'gpt', value: 'a' },
        ],
        system: 's',
        tools: '',
      },
      { messages: [{ role: 'system', content: 's' }, user, assistant] },
    ],
    ['prompt_completion', { prompt: 'q', completion: 'a' }, { prompt: 'q', completion: 'a' }],
    ['prompt_completion', { prompt: [user], completion: [assistant] }, { prompt: [user], completion: [assistant] }],
    ['question_answer', { question: 'q', answer: 'a', id: 3 }, { prompt: [user], completion: [assistant] }],
    ['alpaca', { instruction: 'q', input: '', output: 'a' }, { prompt: [user], completion: [assistant] }],
    [
      'alpaca',
      { instruction: 'q', input: 'i', output: 'a', history: [['x', 'y']] },
      {
        prompt: [
          { role: 'user', content: 'x' },
          { role: 'assistant', content: 'y' },
          { role: 'user', content: 'q\ni' },
        ],
        completion: [assistant],
      },
    ],
    ['text', { text: 'hello' }, { text: 'hello' }],
  ])('recognises %s', async (format, value, row) => {
    const lines = `${JSON.stringify(value)}\n`;
    for (const text of [lines, `\ufeff\n${lines}\r\n\n`, JSON.stringify([value]), JSON.stringify([value], null, 2)]) {
      expect(await readDataset(source(text))).toEqual({ format, rows: [row] });
    }
    expect(await readDataset(source(gzipSync(lines)))).toEqual({ format, rows: [row] });
  });

  it('takes the lines of a .txt', async () => {
    expect(await readDataset(source('one\r\n\ntwo', 'a.txt'))).toEqual({
      format: 'text',
      rows: [{ text: 'one' }, { text: 'two' }],
    });
  });

  const good = JSON.stringify({ question: 'q', answer: 'a' });
  it.each<[string, string | Uint8Array, string]>([
    ['an empty file', '', 'rows.jsonl: is empty: one JSON object a line, or a JSON array of objects'],
    ['blanks', ' \n\n', 'rows.jsonl: holds only blanks: one JSON object a line, or a JSON array of objects'],
    [
      'a cut line',
      `${good}\n{"question": "q", "ans`,
      'rows.jsonl: line 2: is cut in the middle of a row: one JSON object a line',
    ],
    [
      'no JSON',
      `${good}\n\nquestion,answer\n${good}`,
      'rows.jsonl: line 3: is not JSON: question,answer: one JSON object a line',
    ],
    ['no object', `${good}\n[1]\n`, 'rows.jsonl: line 2: is not a JSON object: [1]: one JSON object a line'],
    ['a row without an answer', `${good}\n{"question": "q"}\n`, 'rows.jsonl: line 2, answer: is missing: a text'],
    [
      'an empty answer',
      `{"question": "q", "answer": " "}`,
      'rows.jsonl: line 1, answer: is empty: a text with something in it',
    ],
    ['a number for an answer', `{"question": "q", "answer": 4}`, 'rows.jsonl: line 1, answer: is not a text: a text'],
    [
      'a conversation without the assistant',
      JSON.stringify({ messages: [user] }),
      'rows.jsonl: line 1, messages: has no answer: a message whose role is "assistant"',
    ],
    [
      'a message without content',
      JSON.stringify({ messages: [{ role: 'user' }, assistant] }),
      'rows.jsonl: line 1, messages.0.content: is missing: a text',
    ],
    [
      'an unknown speaker',
      JSON.stringify({ conversations: [{ from: 'dog', value: 'w' }] }),
      'rows.jsonl: line 1, conversations.0.from: is "dog": human, user, gpt, assistant, bing, chatgpt, system, function_call, observation, tool',
    ],
    [
      'unknown columns',
      '{"a": 1, "b": 2}',
      'rows.jsonl: line 1: has the columns a, b: messages; or conversations (from, value); or prompt, completion; or question, answer; or instruction, input, output; or text',
    ],
    [
      'a cut array',
      `[${good},\n${good},\n{"question"`,
      'rows.jsonl: line 3: is cut in the middle of the array: a JSON array that ends; is rows.jsonl whole?',
    ],
    [
      'a bad element',
      `[${good},\n{"question": }]`,
      'rows.jsonl: line 2: is not JSON: {"question": }: one JSON object a line',
    ],
    [
      'something after an array',
      `[${good}]\n7`,
      'rows.jsonl: line 2: has something after the array: a JSON array and nothing else',
    ],
    ['an empty array', '[]', 'rows.jsonl: has no rows: at least one row'],
    [
      'bytes that are no UTF-8',
      Uint8Array.of(...bytesOf(`${good}\n{"text": "`), 0xff, 0x22, 0x7d),
      'rows.jsonl: line 2: is not UTF-8: text in UTF-8',
    ],
    [
      'a cut gzip',
      gzipSync(good.repeat(100)).subarray(0, 40),
      'rows.jsonl: is a gzip file that is cut or damaged: a whole file',
    ],
  ])('refuses %s', async (_, text, message) => {
    expect(await refusal(source(text))).toBe(message);
  });

  it('refuses a 10 MB line by its number, without holding it', async () => {
    const long = `${good}\n${JSON.stringify({ question: 'q', answer: 'x'.repeat(12 * 1024 ** 2) })}\n${good}\n`;
    expect(await refusal(source(long))).toBe('rows.jsonl: line 2: is 12.0 MB long: at most 10 MB a row');
    expect(await inspectDataset(source(long))).toMatchObject({ rows: 3, problems: [{ line: 2 }] });
    // A line of a gigabyte that never ends: nothing of it is kept.
    const endless: ByteSource = {
      name: 'endless.jsonl',
      size: 2 ** 30,
      read: async (start, end) => new Uint8Array(end - start).fill(0x61),
    };
    const before = process.memoryUsage().arrayBuffers;
    expect(await refusal(endless)).toBe('endless.jsonl: line 1: is 1024.0 MB long: at most 10 MB a row');
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(64e6);
  }, 30_000);

  it('reads rows whatever the chunks cut', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.record({ question: word(), answer: word() }), { minLength: 1, maxLength: 20 }),
        fc.constantFrom('lines', 'array', 'pretty'),
        fc.integer({ min: 1, max: 7 }),
        async (rows, how, chunk) => {
          const text =
            how === 'lines'
              ? rows.map((row) => JSON.stringify(row)).join('\n')
              : JSON.stringify(rows, null, how === 'pretty' ? 2 : undefined);
          const read: unknown[] = [];
          for await (const record of readRecords(source(`\ufeff${text}`), chunk))
            read.push('value' in record && record.value);
          expect(read).toEqual(rows);
        },
      ),
      { numRuns: 200 },
    );
  });

  it('gives a value or an InputError for 1,500 damaged files', async () => {
    const texts = [
      [user, assistant, user].map((_, i) => JSON.stringify({ messages: [user, assistant], id: i })).join('\n'),
      JSON.stringify(
        [
          { instruction: 'q', input: 'i', output: 'a' },
          { instruction: 'q', output: 'b' },
        ],
        null,
        1,
      ),
      Array.from({ length: 5 }, (_, i) => JSON.stringify({ question: `${i}`, answer: '漢字 "x" \\ 😀' })).join('\n'),
    ];
    const seeds = [...texts.map((text) => bytesOf(text)), Uint8Array.from(gzipSync(texts[2]!))];
    const outcomes = await readDamaged(seeds, 1500, (bytes) => readDataset(new MemorySource('rows.jsonl', bytes)));
    expect(outcomes.read).toBeGreaterThan(50);
    expect(outcomes.refused).toBeGreaterThan(50);
  });
});

function word() {
  return fc.string({ unit: 'grapheme', minLength: 1 }).filter((text) => text.trim() !== '');
}

describe('inspectDataset', () => {
  it('lists columns, counts every row and gathers problems', async () => {
    const text =
      '{"question":"q","answer":"a"}\n{"question":"q","answer":"","note":1}\nx\n{"question":"r","answer":"b"}\n';
    const { samples, ...seen } = await inspectDataset(source(text));
    expect(seen).toEqual({
      format: 'question_answer',
      rows: 4,
      columns: ['question', 'answer', 'note'],
      problems: [
        { line: 2, field: 'answer', what: 'is empty: a text with something in it' },
        { line: 3, what: 'is not JSON: x: one JSON object a line' },
      ],
    });
    expect(samples).toHaveLength(2);
  });

  it('goes on past the rows that it looks at first', async () => {
    const bad = 'x\n'.repeat(250);
    expect(await inspectDataset(source(`${bad}{"text":"t"}\n`))).toMatchObject({ format: 'text', rows: 251 });
    expect((await inspectDataset(source(bad))).problems).toHaveLength(100);
  });

  it.skipIf(!existsSync(SHARED)).each([
    ['gsm8k/train.jsonl', 'question_answer', 7473],
    ['formats/alpaca_en_demo.json', 'alpaca', 999],
    ['formats/alpaca_zh_demo.json', 'alpaca', 1000],
    ['formats/glaive_toolcall_en_demo.json', 'sharegpt', 300],
    ['formats/wiki_demo.txt', 'text', 30],
  ])('reads %s (skipped without ../shared)', async (path, format, rows) => {
    const seen = await inspectDataset(source(readFileSync(`${SHARED}/${path}`), path));
    expect(seen).toMatchObject({ format, rows });
    expect(seen.problems.filter(({ what }) => !what.startsWith('is empty'))).toEqual([]);
  });
});
