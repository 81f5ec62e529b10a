/**
 * The recipe's fields as a flat list, read off the schema: what forms show, docs print, errors suggest.
 * A field's place is dotted ("training.learning_rate"); teachers differ by kind, so theirs carry the kinds they belong to.
 */
import type * as v from 'valibot';
import * as schema from './schema.ts';

export interface Field {
  /** Dotted, as in errors: "student.compress.init". Inside a list the item is `[]`: "evaluate.tasks[].source". */
  readonly place: string;
  readonly about: string;
  readonly kind: 'text' | 'number' | 'integer' | 'flag' | 'choice' | 'list' | 'object' | 'mixed';
  /** What may stand here, in words: "a number from 0 to 1". */
  readonly allowed: string;
  readonly required: boolean;
  /** undefined where there is none or where it depends on other fields (the sentence says so). */
  readonly default: unknown;
  readonly nullable: boolean;
  readonly options?: readonly string[];
  readonly min?: number;
  readonly max?: number;
  /** True where the bound itself is not allowed. */
  readonly minExcluded?: boolean;
  readonly maxExcluded?: boolean;
  /** For fields of a teacher: the kinds that have it. */
  readonly teacherKinds?: readonly string[];
}

type Any = v.GenericSchema & Record<string, unknown>;
type PipeStep = { kind: string; type: string; requirement?: unknown; description?: string };

interface Unwrapped {
  readonly core: Any;
  readonly steps: PipeStep[];
  readonly nullable: boolean;
  readonly optional: boolean;
  readonly default: unknown;
}

/** Takes off optional, nullable and pipes, keeping what they said. */
function unwrap(outer: Any): Unwrapped {
  let core = outer;
  let nullable = false;
  let optional = false;
  let fallback: unknown;
  const steps: PipeStep[] = [];
  for (;;) {
    if (Array.isArray(core['pipe'])) {
      const [first, ...rest] = core['pipe'] as [Any, ...PipeStep[]];
      steps.push(...rest);
      core = first;
    } else if (core.type === 'optional' || core.type === 'nullable') {
      if (core.type === 'optional') {
        optional = true;
        fallback = core['default'];
      } else nullable = true;
      core = core['wrapped'] as Any;
    } else return { core, steps, nullable, optional, default: fallback };
  }
}

const quoted = (options: readonly unknown[]) => options.map((option) => JSON.stringify(option)).join(', ');

function numberWords(steps: PipeStep[]): string {
  if (steps.some((step) => step.type === 'check')) return schema.STEP_COUNT;
  const noun = steps.some((step) => step.type === 'integer') ? 'a whole number' : 'a number';
  const { min, max, minExcluded, maxExcluded } = bounds(steps);
  const words: string[] = [];
  if (min !== undefined)
    words.push(minExcluded ? `greater than ${min}` : max === undefined ? `of at least ${min}` : `from ${min}`);
  if (max !== undefined)
    words.push(
      maxExcluded
        ? min === undefined
          ? `below ${max}`
          : `to below ${max}`
        : `${minExcluded ? 'and at most' : 'to'} ${max}`,
    );
  if (steps.some((step) => step.type === 'not_value')) words.push('but not 0');
  return [noun, ...words].join(' ');
}

function bounds(steps: PipeStep[]): Pick<Field, 'min' | 'max' | 'minExcluded' | 'maxExcluded'> {
  const of = (type: string) => steps.find((step) => step.type === type)?.requirement as number | undefined;
  const found: { -readonly [K in 'min' | 'max' | 'minExcluded' | 'maxExcluded']?: Field[K] } = {};
  const [min, above, max, below] = [of('min_value'), of('gt_value'), of('max_value'), of('lt_value')];
  if (min !== undefined) found.min = min;
  if (above !== undefined) Object.assign(found, { min: above, minExcluded: true });
  if (max !== undefined && max !== Number.MAX_SAFE_INTEGER) found.max = max;
  if (below !== undefined) Object.assign(found, { max: below, maxExcluded: true });
  return found;
}

/** What a schema allows, in words. */
function allowedWords(outer: Any): string {
  const { core, steps, nullable } = unwrap(outer);
  const words = (): string => {
    switch (core.type) {
      case 'string': {
        const form = steps.find((step) => step.type === 'regex')?.requirement;
        if (form !== undefined) return schema.FORMS.get(form as RegExp)!;
        const most = steps.find((step) => step.type === 'max_length')?.requirement;
        return most === undefined ? 'a text that is not empty' : `a text of 1 to ${String(most)} characters`;
      }
      case 'number':
        return numberWords(steps);
      case 'boolean':
        return 'true or false';
      case 'picklist':
        return `one of ${quoted(core['options'] as unknown[])}`;
      case 'literal':
        return JSON.stringify(core['literal']);
      case 'array': {
        const item = core['item'] as Any;
        const inner = unwrap(item).core;
        if (inner.type === 'picklist') return `a list of any of ${quoted(inner['options'] as unknown[])}`;
        if (inner.type === 'string') return 'a list of texts';
        if (inner.type === 'number') return 'a list of whole numbers from 0';
        return 'a list of objects';
      }
      case 'union':
        return (core['options'] as Any[]).map(allowedWords).join(', or ');
      case 'variant':
        return `an object with "kind", one of ${quoted(variantKinds(core))}`;
      default:
        return 'an object';
    }
  };
  return words() + (nullable ? ', or null' : '');
}

/** What a list's items are picked from. */
function listOptions(list: Any): Pick<Field, 'options'> {
  const item = unwrap(list['item'] as Any).core;
  return item.type === 'picklist' ? { options: item['options'] as string[] } : {};
}

function variantKinds(variant: Any): string[] {
  return (variant['options'] as Any[]).map((option) => {
    const entries = unwrap(option).core['entries'] as Record<string, Any>;
    return String(unwrap(entries['kind']!).core['literal']);
  });
}

function kindOf(core: Any, steps: PipeStep[]): Field['kind'] {
  switch (core.type) {
    case 'string':
      return 'text';
    case 'number':
      return steps.some((step) => step.type === 'integer') ? 'integer' : 'number';
    case 'boolean':
      return 'flag';
    case 'picklist':
      return typeof (core['options'] as unknown[])[0] === 'number' ? 'integer' : 'choice';
    case 'literal':
      return 'choice';
    case 'array':
      return 'list';
    case 'union':
      return 'mixed';
    default:
      return 'object';
  }
}

function walk(outer: Any, place: string, teacherKinds: readonly string[] | undefined, into: Field[]): void {
  const { core, steps, nullable, optional, default: fallback } = unwrap(outer);
  if (place !== '') {
    into.push({
      place,
      about: steps.find((step) => step.type === 'description')?.description ?? '',
      kind: kindOf(core, steps),
      allowed: allowedWords(outer),
      required: !optional,
      default: fallback,
      nullable,
      ...(core.type === 'picklist' ? { options: (core['options'] as unknown[]).map(String) } : {}),
      ...(core.type === 'literal' && typeof core['literal'] === 'string' ? { options: [core['literal']] } : {}),
      ...(core.type === 'variant' ? { options: variantKinds(core) } : {}),
      ...(core.type === 'array' ? listOptions(core) : {}),
      ...(core.type === 'number' ? bounds(steps) : {}),
      ...(teacherKinds ? { teacherKinds } : {}),
    });
  }
  if (core.type === 'strict_object') {
    for (const [name, entry] of Object.entries(core['entries'] as Record<string, Any>)) {
      walk(entry, place === '' ? name : `${place}.${name}`, teacherKinds, into);
    }
  } else if (core.type === 'variant') {
    const options = core['options'] as Any[];
    variantKinds(core).forEach((kind, i) => walkVariant(options[i]!, place, kind, into));
  } else if (core.type === 'array') {
    const item = core['item'] as Any;
    if (unwrap(item).core.type === 'strict_object') {
      const inner: Field[] = [];
      walk(item, `${place}[]`, teacherKinds, inner);
      into.push(...inner.slice(1));
    }
  }
}

/** A field that several kinds of teacher share is listed once, with all of them. */
function walkVariant(option: Any, place: string, kind: string, into: Field[]): void {
  const inner: Field[] = [];
  walk(option, place, [kind], inner);
  for (const field of inner.slice(1)) {
    const same = into.findIndex((other) => other.place === field.place);
    if (same < 0) into.push(field);
    else if (field.place === `${place}.kind`) {
      const options = [...into[same]!.options!, kind];
      into[same] = {
        ...into[same]!,
        options,
        allowed: `one of ${quoted(options)}`,
        about: `${into[same]!.about} ${field.about}`,
        teacherKinds: options,
      };
    } else into[same] = { ...into[same]!, teacherKinds: [...into[same]!.teacherKinds!, kind] };
  }
}

function listFields(): readonly Field[] {
  const fields: Field[] = [];
  walk(schema.recipe as unknown as Any, '', undefined, fields);
  return fields;
}

/** Every field of a recipe, in the schema's order. */
export const FIELDS: readonly Field[] = listFields();

const byPlace = new Map(FIELDS.map((field) => [field.place, field]));

/** The field at a place; numbers of list items are passed over ("evaluate.tasks.3.source"). */
export function fieldAt(place: string): Field | undefined {
  return byPlace.get(place.replace(/\.\d+(?=\.|$)/g, '[]')) ?? byPlace.get(place.replace(/\.\d+(?=\.|$)/g, ''));
}
