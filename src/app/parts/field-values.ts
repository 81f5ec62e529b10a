/** Between what stands in a form's control and what stands in a recipe. */
import { InputError } from '../../formats/input-error.ts';
import { parseRecipe } from '../../recipe/parse.ts';
import type { RecipeInput } from '../../recipe/schema.ts';
import type { Field } from '../../recipe/fields.ts';

/** What a text control says: a value, nothing (the default holds), or that it is not a number. */
export type Said = { readonly value: unknown } | 'not-a-number';

export function fromText(field: Field, text: string): Said {
  const trimmed = text.trim();
  if (trimmed === '') return { value: field.required && field.kind === 'text' ? '' : undefined };
  switch (field.kind) {
    case 'number':
    case 'integer': {
      const value = Number(trimmed);
      return Number.isNaN(value) ? 'not-a-number' : { value };
    }
    case 'flag':
      return { value: trimmed === 'true' };
    case 'list': {
      const items = listItems(trimmed);
      return { value: field.place.endsWith('.layers') ? items.map(Number) : items };
    }
    case 'mixed': {
      if (field.place.endsWith('init_lora_weights')) {
        return { value: trimmed === 'true' ? true : trimmed === 'false' ? false : trimmed };
      }
      return { value: trimmed === 'all-linear' ? trimmed : listItems(trimmed) };
    }
    default:
      return { value: text };
  }
}

const listItems = (text: string): string[] => text.split(/[,\s，、]+/).filter((item) => item !== '');

export function toText(value: unknown): string {
  if (value === undefined || value === null) return '';
  if (Array.isArray(value)) return value.join(', ');
  if (typeof value === 'number' && value !== 0 && Math.abs(value) < 1e-4) return value.toExponential();
  return String(value);
}

/** A recipe that is right in everything, to try one value or one section in. */
const TRIAL = {
  student: { model: 'm' },
  teacher: { kind: 'engine', model: 'm' },
  data: { source: 's' },
  lora: {},
} as const;

/** What the recipe's own check says of it; undefined where nothing. */
function objection(recipe: object): InputError | undefined {
  try {
    parseRecipe(recipe, '');
    return undefined;
  } catch (error) {
    if (error instanceof InputError) return error;
    throw error;
  }
}

/** What is wrong with a field by itself, though another section of the recipe may be wrong or empty as well. */
export function problemAt(place: string, draft: RecipeInput): string | undefined {
  const section = place.split('.')[0]!;
  const said = objection({ ...TRIAL, [section]: draft[section as keyof RecipeInput] });
  return said?.place === place ? `${said.what}: ${said.allowed}` : undefined;
}
