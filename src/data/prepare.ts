/**
 * The data step of a run in one call: file ─▶ rows ─▶ split ─▶ ids and labels, with everything that a report says of it.
 * Nothing is lost silently: read = kept + dropped, and each reason is counted.
 */
import type { ByteSource } from '../formats/byte-source.ts';
import { InputError } from '../formats/input-error.ts';
import type { Tokenizer } from '../models/tokenizer.ts';
import type { Data } from '../recipe/schema.ts';
import { readDataset } from './dataset.ts';
import type { Masking } from './mask.ts';
import type { Row } from './row.ts';
import { splitRows, type Split } from './split.ts';
import { cutRow, hashOfRows, tokenizeRows, type Settings, type TokenizedRow } from './tokenize.ts';

export interface DataReport {
  readonly read: number;
  readonly kept: number;
  readonly cut: number;
  readonly dropped: { reason: string; rows: number }[];
  readonly tokens: number;
  /** Share of the tokens that the loss looks at. */
  readonly counted_share: number;
  readonly train_rows: number;
  readonly eval_rows: number;
  /** Rows whose thought before the answer the student's chat template leaves out; absent where there are none. */
  readonly without_thought?: number;
}

export interface PreparedData {
  readonly format: string;
  readonly rows: readonly Row[];
  /** The rows are an encoder's: their labels stand at the masked tokens. */
  readonly masked: boolean;
  readonly train: readonly TokenizedRow[];
  readonly eval: readonly TokenizedRow[];
  /** Longest row before cutting, in tokens. */
  readonly longest: number;
  /** sha256 over the ids of train, then eval: a teacher's cache belongs to it. */
  readonly hash: string;
  readonly report: DataReport;
}

/** Other rows in place of those of the file. */
export interface Rewritten {
  readonly rows: readonly Row[];
  /** For each, in rising order, the row of the file that it comes from: it trains or evaluates as that would. */
  readonly from: readonly number[];
  /** How many were hoped for: `rows` and `dropped` together. */
  readonly asked: number;
  readonly dropped: readonly { reason: string; rows: number }[];
}

export interface PrepareOptions {
  /** Of the student, where it is one: its rows are masked. */
  readonly encoder?: Pick<Masking, 'max_position_embeddings'>;
  readonly onProgress?: (done: number, of: number) => Promise<void> | void;
  /** Gives rows in place of those that were read; the split is of those that were read. */
  readonly rewrite?: (rows: readonly Row[]) => Promise<Rewritten>;
}

export async function prepareData(
  source: ByteSource,
  data: Data,
  tokenizer: Tokenizer,
  seed: number,
  { encoder, onProgress, rewrite }: PrepareOptions = {},
): Promise<PreparedData> {
  const dataset = await readDataset(source, data.format);
  const rewritten = await rewrite?.(dataset.rows);
  const { format } = dataset;
  const { rows } = rewritten ?? dataset;
  const split = splitAs(splitRows(dataset.rows.length, data, seed), rewritten);
  const tell = (before: number) => (done: number) => onProgress?.(before + done, rows.length);
  const settings = settingsOf(data, encoder, seed);
  const train = await tokenizeRows(rows, split.train, tokenizer, settings, source.name, tell(0));
  const evaluated = await tokenizeRows(rows, split.eval, tokenizer, settings, source.name, tell(split.train.length));
  if (train.rows.length === 0) {
    throw new InputError(
      source.name,
      '',
      `leaves no row to train on (${dataset.rows.length} read, ${split.train.length} for training)`,
      'more rows, a smaller data.eval_fraction or a larger data.max_length',
    );
  }
  const dropped = new Map<string, number>();
  for (const { reason, rows: count } of [...(rewritten?.dropped ?? []), ...train.dropped, ...evaluated.dropped]) {
    dropped.set(reason, (dropped.get(reason) ?? 0) + count);
  }
  const tokens = train.tokens + evaluated.tokens;
  const without_thought = train.without_thought + evaluated.without_thought;
  return {
    format,
    rows,
    masked: encoder !== undefined,
    train: train.rows,
    eval: evaluated.rows,
    longest: Math.max(train.longest, evaluated.longest),
    hash: await hashOfRows([...train.rows, ...evaluated.rows]),
    report: {
      read: rewritten?.asked ?? rows.length,
      kept: train.rows.length + evaluated.rows.length,
      cut: train.cut + evaluated.cut,
      dropped: [...dropped].map(([reason, count]) => ({ reason, rows: count })),
      tokens,
      counted_share: tokens === 0 ? 0 : (train.counted + evaluated.counted) / tokens,
      train_rows: train.rows.length,
      eval_rows: evaluated.rows.length,
      ...(without_thought > 0 && { without_thought }),
    },
  };
}

/** The same rows as another tokenizer cuts them. @param file name of the rows in errors */
export async function cutAgain(
  prepared: PreparedData,
  data: Data,
  tokenizer: Tokenizer,
  seed: number,
  file: string,
  { encoder, onProgress }: Omit<PrepareOptions, 'rewrite'> = {},
): Promise<PreparedData> {
  const settings = settingsOf(data, encoder, seed);
  const of = prepared.train.length + prepared.eval.length;
  let done = 0;
  const again = async (rows: readonly TokenizedRow[]): Promise<TokenizedRow[]> => {
    const cut: TokenizedRow[] = [];
    for (const { index } of rows) {
      if (done++ % 256 === 0) await onProgress?.(done - 1, of);
      const place = `${file}: row ${index + 1}`;
      const { input_ids, labels } = cutRow(prepared.rows[index]!, index, tokenizer, settings, place);
      cut.push({ index, input_ids: Int32Array.from(input_ids), labels: Int32Array.from(labels) });
    }
    return cut;
  };
  const [train, evaluated] = [await again(prepared.train), await again(prepared.eval)];
  return { ...prepared, train, eval: evaluated, hash: await hashOfRows([...train, ...evaluated]) };
}

export function settingsOf(data: Data, encoder: PrepareOptions['encoder'], seed: number): Settings {
  const { mlm_probability } = data;
  return encoder ? { ...data, masking: { mlm_probability, seed, ...encoder } } : data;
}

/** The rows that came of those of each side, in their order. */
function splitAs(split: Split, rewritten: Rewritten | undefined): Split {
  if (!rewritten) return split;
  const cameOf = new Map<number, number[]>();
  rewritten.from.forEach((row, i) => cameOf.set(row, [...(cameOf.get(row) ?? []), i]));
  const side = (rows: Uint32Array): Uint32Array => Uint32Array.from([...rows].flatMap((row) => cameOf.get(row) ?? []));
  return { train: side(split.train), eval: side(split.eval) };
}
