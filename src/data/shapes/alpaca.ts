/** `{ "instruction": "…", "input": "…"?, "output": "…", "system"?, "history"? }`, put together as LLaMA-Factory does. */
import type { Message } from '../../models/chat-template.ts';
import { RowError } from '../row.ts';
import { optionalText, textOf, type Shape } from './shape.ts';

export const alpaca: Shape = {
  name: 'alpaca',
  columns: 'instruction, input, output',
  fits: (value) => 'instruction' in value && 'output' in value,
  toRow: (value) => {
    const system = optionalText(value, 'system');
    const input = optionalText(value, 'input');
    const instruction = textOf(value, 'instruction');
    const prompt: Message[] = [
      ...(system ? [{ role: 'system', content: system }] : []),
      ...history(value['history']),
      { role: 'user', content: input ? `${instruction}\n${input}` : instruction },
    ];
    return { prompt, completion: [{ role: 'assistant', content: textOf(value, 'output') }] };
  },
};

function history(value: unknown): Message[] {
  if (value === undefined || value === null) return [];
  if (!Array.isArray(value)) throw new RowError('history', 'is not a list', 'a list of [question, answer]');
  return value.flatMap((pair: unknown, i) => {
    const [question, answer] = Array.isArray(pair) ? (pair as unknown[]) : [];
    if (typeof question !== 'string' || typeof answer !== 'string') {
      throw new RowError(`history.${i}`, 'is not a pair of texts', '[question, answer]');
    }
    return [
      { role: 'user', content: question },
      { role: 'assistant', content: answer },
    ];
  });
}
