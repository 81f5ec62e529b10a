/** What one shape of rows is: how it is recognised, and how a row of it becomes one of TRL's three. */
import type { JsonObject } from '../../formats/strict-json.ts';
import { RowError, type Row } from '../row.ts';

export interface Shape {
  /** As `data.format` names it. */
  readonly name: string;
  /** The columns that tell it, in words. */
  readonly columns: string;
  readonly fits: (value: JsonObject) => boolean;
  /** Throws a RowError where the row is not whole. */
  readonly toRow: (value: JsonObject) => Row;
}

/** A field that must be a text with something in it. */
export function textOf(value: JsonObject, field: string): string {
  const text = value[field];
  if (text === undefined || text === null) throw new RowError(field, 'is missing', 'a text');
  if (typeof text !== 'string') throw new RowError(field, 'is not a text', 'a text');
  if (text.trim() === '') throw new RowError(field, 'is empty', 'a text with something in it');
  return text;
}

/** The same, but it may be absent or empty. */
export function optionalText(value: JsonObject, field: string): string {
  const text = value[field];
  if (text === undefined || text === null) return '';
  if (typeof text !== 'string') throw new RowError(field, 'is not a text', 'a text, or nothing');
  return text;
}
