/** A row as a question and its answer, and the same row with another answer. */
import type { Message } from '../models/chat-template.ts';
import type { Row } from './row.ts';

export interface AskedRow {
  /** What stands before the answer: a conversation, or a plain text. */
  readonly prompt: readonly Message[] | string;
  readonly expected: string;
}

/** undefined for rows without an answer to ask for. */
export function askedOf(row: Row): AskedRow | undefined {
  if ('text' in row) return undefined;
  if ('messages' in row) {
    const last = row.messages.at(-1);
    if (last?.role !== 'assistant' || row.messages.length < 2) return undefined;
    return { prompt: row.messages.slice(0, -1), expected: last.content };
  }
  if (typeof row.prompt === 'string') return { prompt: row.prompt, expected: row.completion as string };
  const completion = row.completion as readonly Message[];
  return { prompt: row.prompt, expected: completion.map(({ content }) => content).join('\n') };
}

/** The row in its own shape, so that what counts in it is what counted. */
export function withAnswer(row: Row, answer: Message): Row {
  if ('messages' in row) return { ...row, messages: [...row.messages.slice(0, -1), answer] };
  if ('text' in row) return row;
  if (typeof row.prompt === 'string') return { prompt: row.prompt, completion: answer.content };
  return { ...row, prompt: row.prompt, completion: [answer] };
}
