import { existsSync, readFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { MemorySource, type FileSource } from '../formats/byte-source.ts';
import { InputError } from '../formats/input-error.ts';
import { loadTokenizer } from '../models/tokenizer.ts';
import { stepsPerEpoch } from '../recipe/derived.ts';
import { parseRecipe } from '../recipe/parse.ts';
import {
  Batches,
  evalBatchSettings,
  planLengths,
  trainBatchSettings,
  type Batch,
  type BatchSettings,
} from './batch.ts';
import { packBfd } from './pack.ts';
import { prepareData } from './prepare.ts';
import { splitRows } from './split.ts';
import { hashOfRows, NOTHING_COUNTS, tokenizeRow, tokenizeRows, type TokenizedRow } from './tokenize.ts';
import fixture from './trl.fixture.json' with { type: 'json' };

const REFERENCE = '../shared/reference';
const have = existsSync(REFERENCE);

const folder = (path: string): FileSource => ({
  name: path,
  async open(name) {
    const file = `${path}/${name}`;
    return existsSync(file) ? new MemorySource(name, Uint8Array.from(readFileSync(file))) : undefined;
  },
});
const bundled = () => loadTokenizer(folder('public/bundled/arithmetic'));

const dataOf = (over: object = {}) =>
  parseRecipe({ student: { model: 'm' }, data: { source: 'r', ...over } }, 'recipe').data;

/** Rows of these lengths whose ids tell them apart: id = 100 · row + place. */
const rowsOf = (lengths: readonly number[]): TokenizedRow[] =>
  lengths.map((length, index) => {
    const input_ids = Int32Array.from({ length }, (_, t) => 100 * index + t);
    return { index, input_ids, labels: input_ids.map((id, t) => (t % 3 === 0 ? -100 : id)) };
  });

const settings = (over: Partial<BatchSettings> = {}): BatchSettings => ({
  batch_size: 4,
  gradient_accumulation_steps: 2,
  shuffle: true,
  seed: 7,
  packing: false,
  max_length: 64,
  pad_token_id: 9,
  ...over,
});

/** Every document of a batch is where it says, and everything else is padding. */
function checkBatch(batch: Batch, rows: readonly TokenizedRow[]): void {
  const { length } = batch;
  const covered = new Uint8Array(batch.rows * length);
  const segmentsOfRow = new Map<number, number[]>();
  for (const { row, at, start, length: size } of batch.documents) {
    const from = at * length + start;
    const { input_ids, labels } = rows[row]!;
    expect(size).toBe(input_ids.length);
    expect([...batch.input_ids.subarray(from, from + size)]).toEqual([...input_ids]);
    expect([...batch.labels.subarray(from, from + size)]).toEqual([...labels]);
    expect([...batch.position_ids.subarray(from, from + size)]).toEqual(Array.from({ length: size }, (_, t) => t));
    const segment = batch.segment_ids[from]!;
    expect(segment).toBeGreaterThan(0);
    expect(batch.segment_ids.subarray(from, from + size).every((each) => each === segment)).toBe(true);
    segmentsOfRow.set(at, [...(segmentsOfRow.get(at) ?? []), segment]);
    covered.fill(1, from, from + size);
  }
  for (const segments of segmentsOfRow.values()) expect(new Set(segments).size).toBe(segments.length);
  covered.forEach((inside, i) => {
    if (inside) return;
    expect(batch.segment_ids[i]).toBe(0);
    expect(batch.labels[i]).toBe(-100);
    expect(batch.input_ids[i]).toBe(9);
  });
  expect(batch.filled_rows).toBe(segmentsOfRow.size);
}

const lengthsArbitrary = fc.array(fc.integer({ min: 1, max: 64 }), { minLength: 1, maxLength: 60 });

describe('Batches', () => {
  it('give every row once an epoch, whole, in a few planned lengths', () => {
    fc.assert(
      fc.property(
        lengthsArbitrary,
        fc.boolean(),
        fc.boolean(),
        fc.integer({ min: 1, max: 5 }),
        (lengths, shuffle, packing, size) => {
          const rows = rowsOf(lengths);
          const batches = new Batches(rows, settings({ shuffle, packing, batch_size: size }));
          const counted = new Map<number, number>();
          expect(batches.lengths.length).toBeLessThanOrEqual(4);
          for (const epoch of [0, 1]) {
            const seen: number[] = [];
            for (let step = 0; step < batches.stepsPerEpoch; step++) {
              const group = batches.step(epoch * batches.stepsPerEpoch + step);
              expect(group.length).toBeGreaterThan(0);
              expect(group.length).toBeLessThanOrEqual(2);
              for (const batch of group) {
                if (epoch === 0) counted.set(batch.length, (counted.get(batch.length) ?? 0) + 1);
                expect(batches.lengths).toContain(batch.length);
                expect(batch.rows).toBe(size);
                checkBatch(batch, rows);
                seen.push(...batch.documents.map(({ row }) => row));
              }
            }
            if (!shuffle && !packing) expect(seen).toEqual(rows.map((_, i) => i));
            expect(seen.sort((a, b) => a - b)).toEqual(rows.map((_, i) => i));
          }
          expect(batches.lengthCounts).toEqual(counted);
          expect(batches.tokens).toBe(lengths.reduce((sum, length) => sum + length, 0));
        },
      ),
      { numRuns: 150 },
    );
  });

  it('are a pure function of seed and step: resuming asks for a later one', () => {
    const rows = rowsOf(Array.from({ length: 37 }, (_, i) => 1 + (i % 40)));
    const one = new Batches(rows, settings());
    const other = new Batches(rows, settings());
    for (const step of [13, 2, 0, 9]) expect(other.step(step)).toEqual(one.step(step));
    expect(one.stepsPerEpoch).toBe(5);
    expect(one.step(0)).not.toEqual(one.step(5));
    expect(new Batches(rows, settings({ seed: 8 })).step(0)).not.toEqual(one.step(0));
    // 37 rows: nine batches of 4 and one of 1; the fifth step of an epoch has the last two.
    expect(one.step(4).map(({ filled_rows }) => filled_rows)).toEqual([4, 1]);
  });

  it('count steps as the recipe does', () => {
    fc.assert(
      fc.property(
        lengthsArbitrary,
        fc.integer({ min: 1, max: 9 }),
        fc.integer({ min: 1, max: 5 }),
        (lengths, size, accumulation) => {
          const training = parseRecipe(
            {
              student: { model: 'm' },
              data: { source: 'r' },
              training: { per_device_train_batch_size: size, gradient_accumulation_steps: accumulation },
            },
            'recipe',
          ).training;
          const rest = { shuffle: true, seed: 1, packing: true, max_length: 64, pad_token_id: 0 };
          const batches = new Batches(rowsOf(lengths), trainBatchSettings(training, rest));
          expect(batches.stepsPerEpoch).toBe(stepsPerEpoch(batches.count, training));
        },
      ),
    );
  });

  it('keep the rows’ order for evaluation', () => {
    const rows = rowsOf([5, 60, 3, 9, 9]);
    const batches = new Batches(rows, evalBatchSettings(2, { packing: false, max_length: 64, pad_token_id: 9 }));
    expect([...batches.epoch()].map(({ documents }) => documents.map(({ row }) => row))).toEqual([[0, 1], [2, 3], [4]]);
  });

  it('are none where there are no rows', () => {
    const none = new Batches([], settings());
    expect([none.count, none.stepsPerEpoch, [...none.epoch()], none.step(0)]).toEqual([0, 0, [], []]);
  });
});

describe('planLengths', () => {
  it('takes one length for equal rows, and short ones where most rows are short', () => {
    expect(planLengths([40, 41, 48, 47], 4)).toEqual([48]);
    const mostlyShort = [...Array.from({ length: 95 }, () => 20), 500, 510, 300, 310, 100];
    const lengths = planLengths(mostlyShort, 1);
    expect(lengths[0]).toBe(24);
    expect(lengths.at(-1)).toBe(512);
    expect(lengths.length).toBeLessThanOrEqual(4);
  });

  it('always holds the longest row, in multiples of 8', () => {
    fc.assert(
      fc.property(lengthsArbitrary, fc.integer({ min: 1, max: 64 }), (lengths, size) => {
        const planned = planLengths(lengths, size);
        expect(planned.at(-1)).toBe(Math.ceil(Math.max(...lengths) / 8) * 8);
        expect(planned).toEqual([...new Set(planned)].sort((a, b) => a - b));
        expect(planned.every((length) => length % 8 === 0)).toBe(true);
      }),
    );
  });
});

describe('packBfd', () => {
  it.each(fixture.packs)('packs as TRL does (capacity $capacity)', ({ lengths, capacity, packs }) => {
    expect(packBfd(lengths, capacity)).toEqual(packs);
  });

  it('fills no pack over, loses no row, and packs each thousand alone', () => {
    const lengths = Array.from({ length: 2500 }, (_, i) => 1 + ((i * 37) % 50));
    const packs = packBfd(lengths, 50);
    expect(packs.flat().sort((a, b) => a - b)).toEqual(lengths.map((_, i) => i));
    for (const pack of packs) {
      expect(pack.reduce((sum, row) => sum + lengths[row]!, 0)).toBeLessThanOrEqual(50);
      expect(new Set(pack.map((row) => Math.floor(row / 1000))).size).toBe(1);
    }
  });
});

describe('splitRows', () => {
  it('trains on the first floor(n·(1−f)) rows in file order', () => {
    const { train, eval: evaluated } = splitRows(160, { eval_fraction: 0.1, shuffle: false }, 1);
    expect([...train, ...evaluated]).toEqual(Array.from({ length: 160 }, (_, i) => i));
    expect(train).toHaveLength(144);
    expect(splitRows(8, { eval_fraction: 0.1, shuffle: false }, 1).train).toHaveLength(7);
    expect(splitRows(250, { eval_fraction: 0.2, shuffle: true }, 1).train).toHaveLength(200);
    expect(splitRows(5, { eval_fraction: 0, shuffle: true }, 1).eval).toHaveLength(0);
  });

  it('shuffles by the seed before it splits', () => {
    const split = splitRows(100, { eval_fraction: 0.3, shuffle: true }, 1);
    expect([...split.train, ...split.eval].sort((a, b) => a - b)).toEqual(Array.from({ length: 100 }, (_, i) => i));
    expect(splitRows(100, { eval_fraction: 0.3, shuffle: true }, 1)).toEqual(split);
    expect(splitRows(100, { eval_fraction: 0.3, shuffle: true }, 2)).not.toEqual(split);
  });
});

describe('tokenizeRow', () => {
  it.skipIf(!have)(
    'gives TRL’s ids and labels for prompts, completions and texts (skipped without ../shared)',
    async () => {
      for (const { tokenizer: name, row, input_ids, labels } of fixture.rows) {
        const tokenizer = await loadTokenizer(folder(`${REFERENCE}/${name}`));
        const made = tokenizeRow(
          row as never,
          tokenizer,
          { assistant_only_loss: false, completion_only_loss: null },
          'rows',
        );
        expect(made, JSON.stringify(row)).toEqual({ input_ids, labels });
      }
    },
  );

  it('counts everything of a prompt and completion where completion_only_loss is false', async () => {
    const tokenizer = await bundled();
    const row = { prompt: '1', completion: '2' };
    const made = tokenizeRow(row, tokenizer, { assistant_only_loss: false, completion_only_loss: false }, 'rows');
    expect(made).toEqual({ input_ids: [17, 18, 2], labels: [17, 18, 2] });
  });

  it('takes a plain prompt and completion as turns where only the assistant counts', async () => {
    const tokenizer = await bundled();
    const only = { assistant_only_loss: true, completion_only_loss: null };
    const made = tokenizeRow({ prompt: '1', completion: '2' }, tokenizer, only, 'rows');
    const turns = [
      { role: 'user', content: '1' },
      { role: 'assistant', content: '2' },
    ];
    expect(made).toEqual(tokenizeRow({ messages: turns }, tokenizer, only, 'rows'));
    expect(made.labels.filter((label) => label !== -100)).toEqual([18, 2]);
    expect(() => tokenizeRow({ text: 'a' }, tokenizer, only, 'rows: row 3')).toThrow(
      'rows: row 3: assistant_only_loss: data: is true though the row is plain text: false, or rows with messages',
    );
  });
});

describe('tokenizeRows', () => {
  const turns = (question: string, answer: string) => ({
    messages: [
      { role: 'user', content: question },
      { role: 'assistant', content: answer },
    ],
  });

  it('counts what it keeps, cuts and drops', async () => {
    const rows = [turns('1', '2'), turns('1', '2'.repeat(30)), turns('1'.repeat(40), '2')];
    const data = dataOf({ assistant_only_loss: true, max_length: 20 });
    const made = await tokenizeRows(rows, Uint32Array.of(0, 1, 2), await bundled(), data, 'rows');
    expect(made.rows.map(({ index, input_ids }) => [index, input_ids.length])).toEqual([
      [0, 12],
      [1, 20],
    ]);
    expect(made).toMatchObject({
      cut: 1,
      dropped: [{ reason: NOTHING_COUNTS, rows: 1 }],
      tokens: 32,
      counted: 13,
      longest: 51,
    });
    const packed = await tokenizeRows(
      rows,
      Uint32Array.of(0, 1, 2),
      await bundled(),
      { ...data, packing: true },
      'rows',
    );
    expect(packed.rows).toHaveLength(3);
  });

  it('gives a hash that knows every id and every border', async () => {
    const row = (...ids: number[]): TokenizedRow => ({
      index: 0,
      input_ids: Int32Array.from(ids),
      labels: Int32Array.from(ids),
    });
    const hashes = await Promise.all([[row(1, 2)], [row(1), row(2)], [row(2, 1)], [row(1, 2), row()]].map(hashOfRows));
    expect(new Set(hashes).size).toBe(4);
    expect(await hashOfRows([row(1, 2)])).toBe(hashes[0]);
  });
});

describe('prepareData', () => {
  const bytes = (text: string) => new MemorySource('rows.jsonl', new TextEncoder().encode(text));

  it('reads, splits and tokenizes the bundled rows', async () => {
    const recipe = parseRecipe(JSON.parse(readFileSync('public/bundled/recipe.json', 'utf8')), 'recipe.json');
    const rows = new MemorySource('rows.jsonl', Uint8Array.from(readFileSync('public/bundled/arithmetic/rows.jsonl')));
    const told: number[] = [];
    const made = await prepareData(rows, recipe.data, await bundled(), recipe.seed, {
      onProgress: (done) => void told.push(done),
    });
    expect(made.report).toMatchObject({ read: 100, kept: 100, cut: 0, dropped: [], train_rows: 80, eval_rows: 20 });
    expect(told.at(-1)).toBe(100);
    expect(made.longest).toBeLessThanOrEqual(48);
  });

  it('refuses rows of which none is left', async () => {
    const row = JSON.stringify({
      messages: [
        { role: 'user', content: '1'.repeat(99) },
        { role: 'assistant', content: '2' },
      ],
    });
    const data = dataOf({ assistant_only_loss: true, max_length: 8 });
    const error = await prepareData(bytes(row), data, await bundled(), 1).catch((caught: unknown) => caught);
    expect(error).toBeInstanceOf(InputError);
    expect((error as Error).message).toContain('rows.jsonl: leaves no row to train on (1 read, 0 for training)');
  });

  it.skipIf(!have)('gives the 144 rows that TRL trained on (skipped without ../shared)', async () => {
    const tokenizer = await loadTokenizer(folder(`${REFERENCE}/sft_llama`));
    const rows = new MemorySource('rows.jsonl', Uint8Array.from(readFileSync(`${REFERENCE}/sft_llama/rows.jsonl`)));
    const expected: { input_ids: number[]; labels: number[] }[] = JSON.parse(
      readFileSync(`${REFERENCE}/sft_llama/tokenized_train.json`, 'utf8'),
    );
    const data = dataOf({ shuffle: false, max_length: 320, assistant_only_loss: true });
    const { train, eval: evaluated } = await prepareData(rows, data, tokenizer, 1);
    expect(train.map(({ input_ids, labels }) => ({ input_ids: [...input_ids], labels: [...labels] }))).toEqual(
      expected,
    );
    expect(evaluated).toHaveLength(16);
  });
});
