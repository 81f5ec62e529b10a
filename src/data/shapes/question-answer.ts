/** `{ "question": "…", "answer": "…" }`, as GSM8K: a user's turn and the assistant's. */
import { textOf, type Shape } from './shape.ts';

export const questionAnswer: Shape = {
  name: 'question_answer',
  columns: 'question, answer',
  fits: (value) => 'question' in value && 'answer' in value,
  toRow: (value) => ({
    prompt: [{ role: 'user', content: textOf(value, 'question') }],
    completion: [{ role: 'assistant', content: textOf(value, 'answer') }],
  }),
};
