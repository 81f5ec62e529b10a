/** Which shape the rows have: told by the first rows' columns, or by `data.format`. A new shape is one file and one line. */
import { InputError } from '../formats/input-error.ts';
import type { JsonObject } from '../formats/strict-json.ts';
import { alpaca } from './shapes/alpaca.ts';
import { messages } from './shapes/messages.ts';
import { promptCompletion } from './shapes/prompt-completion.ts';
import { questionAnswer } from './shapes/question-answer.ts';
import { sharegpt } from './shapes/sharegpt.ts';
import { text } from './shapes/text.ts';
import type { Shape } from './shapes/shape.ts';

/** The first that most rows fit wins. */
export const SHAPES: readonly Shape[] = [messages, sharegpt, promptCompletion, questionAnswer, alpaca, text];

/** How many rows are looked at. */
export const LOOKED_AT = 100;

/**
 * @param format `data.format`
 * @param values the first rows, at least one
 */
export function detectShape(format: string, values: readonly JsonObject[], file: string): Shape {
  if (format !== 'auto') {
    const shape = SHAPES.find(({ name }) => name === format);
    if (shape === undefined)
      throw new InputError(file, '', `the format ${format} is not known`, SHAPES.map(({ name }) => name).join(', '));
    return shape;
  }
  const counted = SHAPES.map((shape) => ({ shape, rows: values.filter(shape.fits).length }));
  const best = counted.reduce((a, b) => (b.rows > a.rows ? b : a));
  if (best.rows > 0) return best.shape;
  const columns = Object.keys(values[0] ?? {})
    .slice(0, 8)
    .join(', ');
  throw new InputError(
    file,
    'line 1',
    columns === '' ? 'is an object without columns' : `has the columns ${columns.slice(0, 120)}`,
    SHAPES.map((shape) => shape.columns).join('; or '),
  );
}
