import { beforeAll, describe, expect, it } from 'vitest';
import { MemorySource } from '../formats/byte-source.ts';
import { tinyEncoderFolder, WORDS } from '../models/architectures/tiny-encoder.testing.ts';
import { loadTokenizer, type Tokenizer } from '../models/tokenizer.ts';
import { parseRecipe } from '../recipe/parse.ts';
import { maskedRow, type Masking } from './mask.ts';
import { prepareData } from './prepare.ts';
import { countedPositions } from './tokenize.ts';

const masking: Masking = { mlm_probability: 0.15, seed: 3, max_position_embeddings: 512 };
const [CLS, SEP, MASK] = [2, 3, 4];
let tokenizer: Tokenizer;
beforeAll(async () => {
  tokenizer = await loadTokenizer(await tinyEncoderFolder('bert'));
});
const text = (count: number): { text: string } => ({
  text: Array.from({ length: count }, (_, i) => WORDS[(7 * i) % WORDS.length]!).join(' '),
});

describe('masking', () => {
  it('chooses 15% of the tokens that are no special ones: 80% masked, 10% any token, 10% as they were', () => {
    const seen = { tokens: 0, chosen: 0, masked: 0, kept: 0 };
    for (let row = 0; row < 200; row++) {
      const plain = tokenizer.encode(text(100).text);
      const { input_ids, labels } = maskedRow(text(100), row, tokenizer, masking, 512);
      expect([input_ids[0], input_ids.at(-1), labels[0], labels.at(-1)]).toEqual([CLS, SEP, -100, -100]);
      labels.forEach((label, place) => {
        if (plain[place] === CLS || plain[place] === SEP) return;
        seen.tokens++;
        if (label === -100) return expect(input_ids[place]).toBe(plain[place]);
        expect(label).toBe(plain[place]);
        seen.chosen++;
        if (input_ids[place] === MASK) seen.masked++;
        else if (input_ids[place] === label) seen.kept++;
      });
    }
    // 20,000 draws: three standard deviations; a drawn token is the mask or the same one time in 40
    expect(seen.tokens).toBe(20_000);
    expect(Math.abs(seen.chosen / seen.tokens - 0.15)).toBeLessThan(0.0076);
    expect(Math.abs(seen.masked / seen.chosen - (0.8 + 0.1 / 40))).toBeLessThan(0.022);
    expect(Math.abs(seen.kept / seen.chosen - (0.1 + 0.1 / 40))).toBeLessThan(0.017);
  });

  it('is a function of seed and row, and chooses one token where the draw chose none', () => {
    const made = (row: number, seed: number) => maskedRow(text(20), row, tokenizer, { ...masking, seed }, 512);
    expect(made(5, 3)).toEqual(made(5, 3));
    expect(made(5, 3)).not.toEqual(made(6, 3));
    expect(made(5, 3)).not.toEqual(made(5, 4));
    for (let row = 0; row < 30; row++) {
      const { labels } = maskedRow(text(2), row, tokenizer, { ...masking, mlm_probability: 1e-6 }, 512);
      expect(labels.filter((label) => label !== -100)).toHaveLength(1);
    }
  });

  it('cuts at max_length or the model’s positions, and keeps the closing token', () => {
    for (const [max_length, max_position_embeddings] of [
      [10, 512],
      [512, 10],
    ] as const) {
      const made = maskedRow(text(40), 0, tokenizer, { ...masking, max_position_embeddings }, max_length);
      expect(made.input_ids).toHaveLength(10);
      expect([made.input_ids.at(-1), made.length]).toEqual([SEP, 42]);
    }
  });

  it('reads what was said of conversations and answers', () => {
    const ids = (row: Parameters<typeof maskedRow>[0]) => {
      const { input_ids, labels } = maskedRow(row, 0, tokenizer, masking, 512);
      return input_ids.map((id, i) => (labels[i] === -100 ? id : labels[i]));
    };
    const wanted = tokenizer.encode('w1 w2 w3 w4');
    const turns = [
      { role: 'user', content: 'w1 w2' },
      { role: 'assistant', content: 'w3 w4' },
    ];
    expect(ids({ text: 'w1 w2 w3 w4' })).toEqual(wanted);
    expect(ids({ messages: turns })).toEqual(wanted);
    expect(ids({ prompt: 'w1 w2', completion: 'w3 w4' })).toEqual(wanted);
    expect(ids({ prompt: turns.slice(0, 1), completion: turns.slice(1) })).toEqual(wanted);
  });

  it('makes an encoder’s rows of a file: labels where the tokens stand, rows without a word dropped', async () => {
    const rows = [...Array.from({ length: 9 }, () => text(12).text), 'nothing known'].map((one) =>
      JSON.stringify({ text: one }),
    );
    const source = new MemorySource('rows.jsonl', new TextEncoder().encode(rows.join('\n')));
    const { data } = parseRecipe({ student: { model: 'm' }, data: { source: 'rows.jsonl', eval_fraction: 0.2 } }, 'r');
    const made = await prepareData(source, data, tokenizer, 1, { encoder: { max_position_embeddings: 16 } });
    const all = [...made.train, ...made.eval];
    expect([made.masked, all.length, made.report.dropped[0]?.rows]).toEqual([true, 9, 1]);
    const places = all.flatMap((row) => countedPositions(row.labels, true).map((place) => row.labels[place]));
    expect(places.length).toBeGreaterThan(8);
    expect(places).not.toContain(-100);
    expect(made.report.counted_share).toBeCloseTo(places.length / (9 * 14), 10);
  });
});
