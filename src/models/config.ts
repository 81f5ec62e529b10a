/**
 * Reading a hub `config.json`: every field is asked for by name and type, and a field that changes the numbers but is
 * not served is refused by name instead of being ignored.
 */
import { InputError } from '../formats/input-error.ts';

export type RawConfig = Readonly<Record<string, unknown>>;

const MOST_LAYERS = 1000;

export class ConfigReader {
  constructor(
    readonly raw: RawConfig,
    /** For errors. */
    readonly file: string,
  ) {}

  /** A whole number ≥ 1. */
  count(field: string, otherwise?: number): number {
    const value = this.raw[field] ?? otherwise;
    if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 1 || value > 2 ** 31) {
      throw this.wrong(field, value, 'a whole number from 1');
    }
    return value;
  }

  /** How many layers: each is built, so that a damaged number must not go far. Llama 3.1's 405B has 126. */
  layers(field: string, otherwise?: number): number {
    const count = this.count(field, otherwise);
    if (count > MOST_LAYERS) throw this.wrong(field, count, `a whole number from 1 to ${MOST_LAYERS}`);
    return count;
  }

  /** A finite number > 0. */
  positive(field: string, otherwise?: number): number {
    const value = this.raw[field] ?? otherwise;
    if (typeof value !== 'number' || !Number.isFinite(value) || value <= 0)
      throw this.wrong(field, value, 'a number above 0');
    return value;
  }

  flag(field: string, otherwise: boolean): boolean {
    const value = this.raw[field] ?? otherwise;
    if (typeof value !== 'boolean') throw this.wrong(field, value, 'true or false');
    return value;
  }

  text(field: string, otherwise?: string): string {
    const value = this.raw[field] ?? otherwise;
    if (typeof value !== 'string') throw this.wrong(field, value, 'a text');
    return value;
  }

  object(field: string): RawConfig | undefined {
    const value = this.raw[field];
    if (value === undefined || value === null) return undefined;
    if (typeof value !== 'object' || Array.isArray(value)) throw this.wrong(field, value, 'an object');
    return value as RawConfig;
  }

  /** Refuses a field that is set to anything but what Stillroom computes. */
  only(field: string, ...served: unknown[]): void {
    const value = this.raw[field];
    if (value === undefined || value === null || served.includes(value)) return;
    throw this.wrong(
      field,
      value,
      `${served.length === 0 ? 'null' : served.map((one) => JSON.stringify(one)).join(' or ')}; other values are not served yet`,
    );
  }

  wrong(field: string, value: unknown, allowed: string): InputError {
    const shown = value === undefined ? 'it is missing' : `${JSON.stringify(value)?.slice(0, 60)} is not served`;
    return new InputError(this.file, field, shown, allowed);
  }
}
