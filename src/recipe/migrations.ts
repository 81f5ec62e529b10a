/**
 * Older recipes ─▶ today's shape. Each step takes a recipe of version n to version n + 1; they are run in order, so a
 * recipe of any age is read. A recipe without schema_version is taken as today's: people write recipes by hand.
 */
import { InputError } from '../formats/input-error.ts';
import { SCHEMA_VERSION } from './schema.ts';

export type Json = Record<string, unknown>;
/** Takes a copy; may change and return it. */
export type Migration = (recipe: Json) => Json;

/** MIGRATIONS[n - 1] takes version n to n + 1. Version 1 is the first, so there is none yet. */
export const MIGRATIONS: readonly Migration[] = [];

export function migrate(json: Json, file: string, steps: readonly Migration[] = MIGRATIONS): Json {
  const newest = steps === MIGRATIONS ? SCHEMA_VERSION : steps.length + 1;
  const version = json['schema_version'];
  if (version === undefined) return json;
  if (typeof version !== 'number' || !Number.isInteger(version) || version < 1) {
    throw new InputError(file, 'schema_version', `is ${JSON.stringify(version)}`, `a whole number from 1 to ${newest}`);
  }
  if (version > newest) {
    throw new InputError(
      file,
      'schema_version',
      `is ${version}, from a newer Stillroom`,
      `at most ${newest}; update this one`,
    );
  }
  if (version === newest) return json;
  let current = structuredClone(json);
  for (const step of steps.slice(version - 1)) current = step(current);
  return { ...current, schema_version: newest };
}
