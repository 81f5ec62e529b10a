/** `{ "text": "…" }`, or a line of a .txt file. */
import { textOf, type Shape } from './shape.ts';

export const text: Shape = {
  name: 'text',
  columns: 'text',
  fits: (value) => 'text' in value,
  toRow: (value) => ({ text: textOf(value, 'text') }),
};
