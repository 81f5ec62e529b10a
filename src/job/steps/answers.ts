/** Questions of rows as prompts, and what answers them: a generator on the device, for batches that fit. */
import { askedOf } from '../../data/question.ts';
import type { Row } from '../../data/row.ts';
import type { Device } from '../../engine/run/device.ts';
import type { Question } from '../../evaluate/exact-match.ts';
import { InputError } from '../../formats/input-error.ts';
import { openJsonObject } from '../../formats/json-file.ts';
import { Generator } from '../../models/generate.ts';
import { isEncoder } from '../../models/architectures/index.ts';
import type { Model } from '../../models/model.ts';
import type { Tokenizer } from '../../models/tokenizer.ts';
import type { DeviceModel } from './device-model.ts';

export interface RowQuestion extends Question {
  /** What a person reads. */
  readonly text: string;
}

/** undefined for rows without an answer to ask for. */
export function questionOf(row: Row, tokenizer: Tokenizer): RowQuestion | undefined {
  const asked = askedOf(row);
  if (!asked) return undefined;
  const { prompt, expected } = asked;
  if (typeof prompt === 'string') return { input_ids: tokenizer.encode(prompt), text: prompt, expected };
  return conversation(prompt, expected, tokenizer);
}

export function questionsOf(rows: readonly Row[], tokenizer: Tokenizer, file: string): RowQuestion[] {
  return rows.map((row, i) => {
    const question = questionOf(row, tokenizer);
    if (question) return question;
    throw new InputError(file, `row ${i + 1}`, 'has no question with an answer', 'rows that end with an answer');
  });
}

function conversation(
  messages: Parameters<NonNullable<Tokenizer['chat_template']>['render']>[0],
  expected: string,
  tokenizer: Tokenizer,
): RowQuestion {
  const { chat_template } = tokenizer;
  if (!chat_template) {
    throw new InputError('student', '', 'has no chat template', 'a model with chat_template.jinja');
  }
  const prompt = chat_template.render(messages, { add_generation_prompt: true });
  const text = messages.findLast(({ role }) => role === 'user')?.content ?? prompt;
  return { input_ids: tokenizer.encode(prompt, { add_special_tokens: false }), text, expected };
}

/** Where an answer ends: all that generation_config.json, config.json and the tokenizer name. */
export async function endTokens(model: Pick<Model, 'config' | 'folder'>, tokenizer: Tokenizer): Promise<number[]> {
  const generation = await openJsonObject(model.folder, 'generation_config.json');
  const named = [generation?.['eos_token_id'], model.config['eos_token_id'], tokenizer.eos_token_id];
  const ids = named.flat().filter((id): id is number => typeof id === 'number');
  return [...new Set(ids)];
}

/** Bytes that the keys and values of a batch may take. */
const CACHE_BYTES = 256 * 1024 * 1024;
const MOST_AT_ONCE = 64;

export function readsOnly(model: string): InputError {
  return new InputError(model, '', 'is an encoder: it reads text and does not write it', 'a model that writes text');
}

/** A generator for prompts up to the longest of these; whoever asks for it frees it. */
export function generatorFor(
  device: Device,
  { options, tensors, adapter }: DeviceModel,
  questions: readonly Question[],
  max_new_tokens: number,
): Promise<Generator> {
  if (isEncoder(options)) throw readsOnly('the model');
  const most = options.max_position_embeddings;
  const prompt = Math.min(most - 1, Math.max(1, ...questions.map((one) => one.input_ids.length)));
  const capacity = Math.min(most, prompt + max_new_tokens);
  const rowBytes = 8 * capacity * options.num_hidden_layers * options.num_key_value_heads * options.head_dim;
  const batch = Math.max(1, Math.min(MOST_AT_ONCE, questions.length, Math.floor(CACHE_BYTES / rowBytes)));
  return Generator.create(device, options, tensors, { batch, prompt, capacity }, adapter);
}
