/**
 * Row ─▶ ids and labels of an encoder: a text in which some tokens are masked, to be guessed where they stand. As
 * transformers' DataCollatorForLanguageModeling: each token but the special ones is chosen with mlm_probability; of the
 * chosen ones 80% become the mask token, 10% any token of the vocabulary, 10% stay; labels are -100 everywhere else.
 *
 * The draw is made once a row and not anew each epoch: it is part of the rows that a teacher's cache belongs to. A row in
 * which it chose nothing would never count, so one token is chosen there (as BERT's own create_pretraining_data does).
 */
import { InputError } from '../formats/input-error.ts';
import type { Tokenizer } from '../models/tokenizer.ts';
import { Random, STREAM } from './random.ts';
import type { Row } from './row.ts';

export interface Masking {
  readonly mlm_probability: number;
  readonly seed: number;
  /** Tokens that the model has positions for. */
  readonly max_position_embeddings: number;
}

/** Of 2³² words. */
const share = (probability: number): number => probability * 2 ** 32;

/**
 * One row, cut as tokenizers cut: the end goes, its closing special token stays.
 * @param index of the row in its file: the draw is a function of it and the seed
 */
export function maskedRow(
  row: Row,
  index: number,
  tokenizer: Tokenizer,
  masking: Masking,
  max_length: number,
): { input_ids: number[]; labels: number[]; length: number } {
  const mask_token_id = tokenizer.mask_token_id;
  if (mask_token_id === undefined) {
    throw new InputError('tokenizer', 'mask_token', 'is missing', 'a tokenizer of a masked language model');
  }
  const whole = tokenizer.encode(textOf(row));
  const input_ids = cut(whole, Math.min(max_length, masking.max_position_embeddings), tokenizer.special_ids);
  const labels = input_ids.map(() => -100);
  const places = input_ids.flatMap((id, place) => (tokenizer.special_ids.has(id) ? [] : [place]));
  const random = new Random(masking.seed, STREAM.mask, index);
  const drawn = places.filter(() => random.word() < share(masking.mlm_probability));
  if (drawn.length === 0 && places.length > 0) drawn.push(places[random.below(places.length)]!);
  for (const place of drawn) {
    labels[place] = input_ids[place]!;
    const becomes = random.word();
    if (becomes < share(0.8)) input_ids[place] = mask_token_id;
    else if (becomes < share(0.9)) input_ids[place] = random.below(tokenizer.vocab_size);
  }
  return { input_ids, labels, length: whole.length };
}

function cut(ids: readonly number[], most: number, special: ReadonlySet<number>): number[] {
  if (ids.length <= most) return [...ids];
  const last = ids.at(-1)!;
  return special.has(last) ? [...ids.slice(0, most - 1), last] : ids.slice(0, most);
}

/** What an encoder reads of a row: the text, or what was said, one message a line. */
function textOf(row: Row): string {
  if ('text' in row) return row.text;
  const said = (messages: readonly { readonly content: string }[]): string =>
    messages.map(({ content }) => content).join('\n');
  if ('messages' in row) return said(row.messages);
  if (typeof row.prompt === 'string') return `${row.prompt}\n${row.completion as string}`;
  return said([...row.prompt, ...(row.completion as readonly { content: string }[])]);
}
