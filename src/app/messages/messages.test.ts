/** The catalogues are whole: every field of a form has its words, every term in a sentence exists. */
import { describe, expect, it } from 'vitest';
import { FIELDS } from '../../recipe/fields.ts';
import { en } from './en.ts';
import { FIELD_LABELS, FIELDS_ZH } from './fields.ts';
import { TERMS } from './terms.ts';
import { bytes, count, parameters, setting } from './words.ts';
import { zh } from './zh.ts';

/** Fields that forms show; objects are headings and the version is the page's own. */
const shown = FIELDS.filter(
  ({ kind, place }) => kind !== 'object' && !['$schema', 'schema_version', 'evaluate.tasks'].includes(place),
);

/** Every string of a catalogue; functions are asked with ones. */
function sentences(value: unknown): string[] {
  if (typeof value === 'string') return [value];
  if (typeof value === 'function') return sentences((value as (...values: unknown[]) => unknown)(1, 1, 1));
  return typeof value === 'object' && value !== null ? Object.values(value).flatMap(sentences) : [];
}

describe('catalogues', () => {
  it.each(shown.map(({ place }) => place))('%s has a label and sentences in both languages', (place) => {
    expect(FIELD_LABELS[place]).toBeTruthy();
    expect(FIELDS_ZH[place]?.every((words) => words.length > 0)).toBe(true);
  });

  it('names no field that the schema has not', () => {
    const places = new Set(FIELDS.map(({ place }) => place));
    expect([...Object.keys(FIELD_LABELS), ...Object.keys(FIELDS_ZH)].filter((place) => !places.has(place))).toEqual([]);
  });

  it.each([
    ['en', en],
    ['zh', zh],
  ] as const)('%s uses only terms that are explained', (_, catalogue) => {
    const used = sentences(catalogue).flatMap((text) =>
      [...text.matchAll(/\[([a-z_]+)(?:\|[^\]]+)?\]/g)].map(([, name]) => name!),
    );
    expect(used.length).toBeGreaterThan(5);
    expect(used.filter((name) => !(name in TERMS.en))).toEqual([]);
  });

  it('leaves no English sentence in the Chinese catalogue', () => {
    const latinOnly = sentences(zh).filter(
      (text) => /[a-z]{3,} [a-z]{3,} [a-z]{3,}/.test(text) && !/[\u4e00-\u9fff]/.test(text),
    );
    expect(latinOnly).toEqual([]);
  });
});

describe('figures in words', () => {
  it.each([
    [0, '0 B'],
    [999, '999 B'],
    [4_200_000, '4.2 MB'],
    [31_000_000, '31 MB'],
    [999_600, '1 MB'],
    [1_340_000_000, '1.3 GB'],
  ])('%d bytes are %s', (n, words) => expect(bytes(n)).toBe(words));
  it.each([
    [452_000, '0.45 M'],
    [134_515_008, '135 M'],
    [1_711_376_384, '1.7 B'],
    [9_216, '9.2 K'],
  ])('%d parameters are %s', (n, words) => expect(parameters(n)).toBe(words));
  it('writes small settings as people do', () => {
    expect([1e-4, 2e-5, 0.001, 0.9].map(setting)).toEqual(['1e-4', '2e-5', '0.001', '0.9']);
  });
  it('groups long counts', () => expect(count(1234567)).toBe('1\u2009234\u2009567'));
});
