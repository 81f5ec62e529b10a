/**
 * A file of rows ─▶ Row[]: read, recognised, checked. A run refuses the first bad row; inspect gathers what is wrong.
 */
import type { ByteSource } from '../formats/byte-source.ts';
import { InputError } from '../formats/input-error.ts';
import type { JsonObject } from '../formats/strict-json.ts';
import { detectShape, LOOKED_AT } from './detect.ts';
import { readRecords, type ReadRecord } from './read.ts';
import { RowError, type Problem, type Row } from './row.ts';
import type { Shape } from './shapes/shape.ts';

/** Rows held in memory; a laptop's distillation needs far fewer. */
export const MOST_ROWS = 2_000_000;

export interface Dataset {
  /** Name of the shape, as `data.format`. */
  readonly format: string;
  readonly rows: readonly Row[];
}

export interface Inspected {
  readonly format: string;
  /** Rows read, good or not. */
  readonly rows: number;
  /** Of all rows that were looked at, in order of appearance. */
  readonly columns: readonly string[];
  readonly problems: readonly { line: number; field?: string; what: string }[];
  /** The first few good rows, for a preview. */
  readonly samples: readonly Row[];
}

/** Throws an InputError at the first row that is not whole. */
export async function readDataset(source: ByteSource, format = 'auto'): Promise<Dataset> {
  const rows: Row[] = [];
  let name = format;
  for await (const read of readRows(source, format)) {
    name = read.shape?.name ?? name;
    if (read.problem) throw toInputError(read.problem, source.name);
    rows.push(read.row);
    if (rows.length > MOST_ROWS)
      throw new InputError(source.name, '', `has more than ${MOST_ROWS} rows`, 'a part of it');
  }
  if (rows.length === 0) throw new InputError(source.name, '', 'has no rows', 'at least one row');
  return { format: name, rows };
}

/** What `inspect` and the page show: at most `most` problems, but every row is read. */
export async function inspectDataset(source: ByteSource, format = 'auto', most = 100): Promise<Inspected> {
  const columns = new Set<string>();
  const problems: { line: number; field?: string; what: string }[] = [];
  const samples: Row[] = [];
  let rows = 0;
  let name = format;
  for await (const read of readRows(source, format)) {
    rows++;
    name = read.shape?.name ?? name;
    for (const column of Object.keys(read.value ?? {})) if (columns.size < 1000) columns.add(column);
    if (!read.problem) {
      if (samples.length < 5) samples.push(read.row);
    } else if (problems.length < most) {
      const { line, field, what, allowed } = read.problem;
      problems.push({ line, ...(field ? { field } : {}), what: `${what}: ${allowed}` });
    }
  }
  return { format: name, rows, columns: [...columns], problems, samples };
}

type ReadRow = { shape?: Shape; value?: JsonObject } & ({ row: Row; problem?: undefined } | { problem: Problem });

/** Rows as they come; the first ones are held back until the shape is known. */
async function* readRows(source: ByteSource, format: string): AsyncGenerator<ReadRow> {
  let held: ReadRecord[] = [];
  let shape: Shape | undefined;
  for await (const record of readRecords(source)) {
    if (shape !== undefined) {
      yield toRow(record, shape);
      continue;
    }
    held.push(record);
    if (held.length < LOOKED_AT) continue;
    shape = shapeOf(held, format, source.name);
    for (const each of held) yield toRow(each, shape);
    held = [];
  }
  shape ??= shapeOf(held, format, source.name);
  for (const each of held) yield toRow(each, shape);
}

/** undefined where no row could be read, so that their problems are told instead. */
function shapeOf(records: readonly ReadRecord[], format: string, file: string): Shape | undefined {
  const values = records.flatMap((record) => ('value' in record ? [record.value] : []));
  return values.length === 0 ? undefined : detectShape(format, values, file);
}

function toRow(record: ReadRecord, shape: Shape | undefined): ReadRow {
  if ('problem' in record || shape === undefined) {
    return { shape, problem: (record as Extract<ReadRecord, { problem: Problem }>).problem };
  }
  const { line, value } = record;
  try {
    return { shape, value, row: shape.toRow(value) };
  } catch (error) {
    if (!(error instanceof RowError)) throw error;
    return { shape, value, problem: { line, field: error.field, what: error.what, allowed: error.allowed } };
  }
}

export function toInputError({ line, field, what, allowed }: Problem, file: string): InputError {
  return new InputError(file, field ? `line ${line}, ${field}` : `line ${line}`, what, allowed);
}
