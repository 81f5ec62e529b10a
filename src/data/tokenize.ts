/**
 * Row ─▶ token ids and labels, as TRL's SFTTrainer prepares them (trl/trainer/sft_trainer.py, _prepare_dataset):
 *  - conversations go through the chat template; assistant_only_loss counts the tokens that overlap what the assistant
 *    says (chat-template.ts), else everything counts;
 *  - a prompt with its completion counts the completion alone unless completion_only_loss is false; it starts where the
 *    ids of the prompt and of the whole diverge;
 *  - plain texts get the end token where they lack it;
 *  - rows longer than max_length lose their end; a row in which nothing counts any more is dropped (not where rows are
 *    packed), and said so.
 * An encoder's rows are masked instead (mask.ts).
 * One liberty: with assistant_only_loss, a plain prompt and completion are taken as a user's and the assistant's turn,
 * where TRL stops with an error.
 */
import { createSHA256 } from 'hash-wasm';
import { InputError } from '../formats/input-error.ts';
import type { ChatTemplate, Message } from '../models/chat-template.ts';
import type { Tokenizer } from '../models/tokenizer.ts';
import type { Data } from '../recipe/schema.ts';
import { maskedRow, type Masking } from './mask.ts';
import type { Row } from './row.ts';
import { leavesThoughtOut } from './thought.ts';

export interface TokenizedRow {
  /** Row number from 0 in the file. */
  readonly index: number;
  readonly input_ids: Int32Array;
  /** Not shifted; -100 does not count. Of a masked row what stood there. */
  readonly labels: Int32Array;
}

export interface Tokenized {
  readonly rows: readonly TokenizedRow[];
  /** Rows that lost their end to max_length (dropped ones not among them). */
  readonly cut: number;
  readonly dropped: readonly { reason: string; rows: number }[];
  readonly tokens: number;
  /** Tokens whose labels count, the first of each row aside where nothing predicts it. */
  readonly counted: number;
  /** Longest row before cutting. */
  readonly longest: number;
  /** Rows whose thought before the answer the chat template leaves out (thought.ts). */
  readonly without_thought: number;
}

export type Settings = Pick<Data, 'max_length' | 'packing' | 'assistant_only_loss' | 'completion_only_loss'> & {
  /** Of an encoder's rows. */
  readonly masking?: Masking;
};

export const NOTHING_COUNTS = 'nothing that counts is left within max_length';

/**
 * @param order row numbers, in the order in which they are to be used
 * @param file name of the rows in errors
 * @param onProgress told the number of rows done, now and then; may wait, so that a worker hears a pause
 */
export async function tokenizeRows(
  rows: readonly Row[],
  order: Uint32Array,
  tokenizer: Tokenizer,
  settings: Settings,
  file: string,
  onProgress?: (done: number) => Promise<void> | void,
): Promise<Tokenized> {
  const kept: TokenizedRow[] = [];
  let [cut, dropped, tokens, counted, longest, without_thought] = [0, 0, 0, 0, 0, 0];
  for (const [done, index] of order.entries()) {
    if (done % 256 === 0) await onProgress?.(done);
    const made = cutRow(rows[index]!, index, tokenizer, settings, `${file}: row ${index + 1}`);
    const { input_ids, labels, length } = made;
    longest = Math.max(longest, length);
    if (input_ids.length === 0 || (!settings.packing && labels.every((label) => label === -100))) {
      dropped++;
      continue;
    }
    if (input_ids.length < length) cut++;
    if (made.without_thought) without_thought++;
    tokens += input_ids.length;
    const row = { index, input_ids: Int32Array.from(input_ids), labels: Int32Array.from(labels) };
    counted += countedPositions(row.labels, settings.masking !== undefined).length;
    kept.push(row);
  }
  await onProgress?.(order.length);
  return {
    rows: kept,
    cut,
    dropped: dropped > 0 ? [{ reason: NOTHING_COUNTS, rows: dropped }] : [],
    tokens,
    counted,
    longest,
    without_thought,
  };
}

/** One row as it is trained on. @returns with its length in tokens before it was cut */
export function cutRow(
  row: Row,
  index: number,
  tokenizer: Tokenizer,
  settings: Settings,
  file: string,
): Labelled & { length: number } {
  const { max_length, masking } = settings;
  if (masking) return maskedRow(row, index, tokenizer, masking, max_length);
  const { input_ids, labels, ...about } = tokenizeRow(row, tokenizer, settings, file);
  const cut = { input_ids: input_ids.slice(0, max_length), labels: labels.slice(0, max_length) };
  return { ...cut, ...about, length: input_ids.length };
}

/** Positions whose logits a label is held against: the one before each that counts, of a masked row its own. */
export function countedPositions(labels: Int32Array, masked: boolean): number[] {
  const ahead = masked ? 0 : 1;
  const positions: number[] = [];
  for (let t = 0; t + ahead < labels.length; t++) if (labels[t + ahead] !== -100) positions.push(t);
  return positions;
}

interface Labelled {
  readonly input_ids: number[];
  readonly labels: number[];
  readonly without_thought?: boolean;
}

/** One row of a model that reads one way, not cut. */
export function tokenizeRow(
  row: Row,
  tokenizer: Tokenizer,
  settings: Pick<Settings, 'assistant_only_loss' | 'completion_only_loss'>,
  file: string,
): Labelled {
  try {
    return labelled(row, tokenizer, settings);
  } catch (error) {
    // The row is where a person must look, even where the template or the tokenizer is what refused it.
    if (error instanceof InputError)
      throw new InputError(file, error.place, `${error.file}: ${error.what}`, error.allowed);
    throw error;
  }
}

function labelled(
  row: Row,
  tokenizer: Tokenizer,
  settings: Pick<Settings, 'assistant_only_loss' | 'completion_only_loss'>,
): Labelled {
  const { assistant_only_loss } = settings;
  const completionOnly = settings.completion_only_loss ?? true;
  if ('text' in row) {
    if (assistant_only_loss) {
      throw new InputError(
        'data',
        'assistant_only_loss',
        'is true though the row is plain text',
        'false, or rows with messages',
      );
    }
    const input_ids = tokenizer.encode(withEnd(row.text, tokenizer));
    return { input_ids, labels: input_ids };
  }
  if ('messages' in row) return conversation(row.messages, row.tools, tokenizer, assistant_only_loss);

  if (isPlain(row)) {
    const { prompt, completion } = row;
    if (!assistant_only_loss) {
      const input_ids = tokenizer.encode(prompt + withEnd(completion, tokenizer));
      return { input_ids, labels: fromDivergence(tokenizer.encode(prompt), input_ids, completionOnly) };
    }
    const turns = [
      { role: 'user', content: prompt },
      { role: 'assistant', content: completion },
    ];
    return conversation(turns, undefined, tokenizer, true);
  }
  const { prompt, completion, tools } = row;
  const whole = conversation([...prompt, ...completion], tools, tokenizer, assistant_only_loss);
  const promptText = templateOf(tokenizer).render(prompt, { add_generation_prompt: true, tools });
  const promptIds = tokenizer.encode(promptText, { add_special_tokens: false });
  const completionLabels = fromDivergence(promptIds, whole.input_ids, completionOnly);
  return {
    ...whole,
    labels: whole.labels.map((label, i) => (completionLabels[i] === -100 ? -100 : label)),
  };
}

type PromptRow = Extract<Row, { prompt: unknown }>;

const isPlain = (row: PromptRow): row is Extract<PromptRow, { prompt: string }> => typeof row.prompt === 'string';

function conversation(
  messages: readonly Message[],
  tools: readonly unknown[] | undefined,
  tokenizer: Tokenizer,
  assistantOnly: boolean,
): Labelled {
  const template = templateOf(tokenizer);
  if (!assistantOnly) {
    const text = template.render(messages, { tools });
    const input_ids = tokenizer.encode(text, { add_special_tokens: false });
    return { input_ids, labels: input_ids, without_thought: leavesThoughtOut(messages, text) || undefined };
  }
  const { text, assistantSpans } = template.renderWithSpans(messages, { tools });
  const input_ids = tokenizer.encode(text, { add_special_tokens: false });
  const mask = tokenizer.mask(text, input_ids, assistantSpans);
  if (!mask.includes(1)) {
    throw new InputError(
      'chat template',
      '',
      'writes nothing of what the assistant says',
      'a template that writes its messages',
    );
  }
  const labels = input_ids.map((id, i) => (mask[i] === 1 ? id : -100));
  return { input_ids, labels, without_thought: leavesThoughtOut(messages, text) || undefined };
}

function templateOf(tokenizer: Tokenizer): ChatTemplate {
  if (tokenizer.chat_template) return tokenizer.chat_template;
  throw new InputError(
    'student',
    '',
    'has no chat template',
    'a model with chat_template.jinja, or rows that are plain text or a plain prompt and completion',
  );
}

function withEnd(text: string, tokenizer: Tokenizer): string {
  const end = tokenizer.special_tokens['eos_token'];
  return end === undefined || text.endsWith(end) ? text : text + end;
}

function fromDivergence(prompt: readonly number[], whole: readonly number[], completionOnly: boolean): number[] {
  if (!completionOnly) return [...whole];
  let same = 0;
  while (same < prompt.length && prompt[same] === whole[same]) same++;
  return whole.map((id, i) => (i < same ? -100 : id));
}

/** sha256 over the ids of all rows, in order: what a teacher's cache was made for. */
export async function hashOfRows(rows: readonly TokenizedRow[]): Promise<string> {
  const hash = await createSHA256();
  hash.init();
  for (const { input_ids } of rows) {
    // Byte order is fixed so that a cache made elsewhere fits.
    const bytes = new DataView(new ArrayBuffer(4 * (input_ids.length + 1)));
    bytes.setUint32(0, input_ids.length, true);
    input_ids.forEach((id, i) => bytes.setInt32(4 * (i + 1), id, true));
    hash.update(new Uint8Array(bytes.buffer));
  }
  return hash.digest('hex');
}
