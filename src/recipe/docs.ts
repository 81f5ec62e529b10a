/** docs/recipes.md, made from the schema: one section an object, one line a field. */
import { FIELDS, type Field } from './fields.ts';

const escape = (words: string) => words.replace(/\|/g, '\\|');

function defaultWords(field: Field): string {
  if (field.required) return 'required';
  if (field.default === undefined) return '';
  return `\`${JSON.stringify(field.default)}\``;
}

function line(field: Field): string {
  const name = field.place.slice(field.place.lastIndexOf('.') + 1);
  const kinds = field.teacherKinds && name !== 'kind' ? ` (${field.teacherKinds.join(', ')})` : '';
  return `| \`${name}\`${kinds} | ${escape(field.about)} | ${escape(field.allowed)} | ${escape(defaultWords(field))} |`;
}

const parentOf = (place: string) => place.slice(0, Math.max(place.lastIndexOf('.'), 0));

export function recipeDocs(): string {
  const parents = [...new Set(FIELDS.map((field) => parentOf(field.place)))];
  const sections = parents.map((parent) => {
    const own = FIELDS.find((field) => field.place === parent.replace(/\[\]$/, ''));
    const title = parent === '' ? 'The recipe' : `\`${parent}\``;
    const about = own ? `${own.about}\n\n` : '';
    const rows = FIELDS.filter((field) => parentOf(field.place) === parent).map(line);
    return `## ${title}\n\n${about}| field | what it does | allowed | default |\n|---|---|---|---|\n${rows.join('\n')}\n`;
  });
  return `# Recipes

<!-- Generated from src/recipe/schema.ts by \`node scripts/recipe-files.mjs\`; a test fails when it is stale. -->

A recipe is one JSON document that names every choice of a distillation. Everything but \`student\` and \`data\` has a
default; names, meanings and defaults are those of transformers, TRL and PEFT where they have the field. An unknown field
is an error that names the nearest known one. A model or source is a hub name, a path relative to the recipe,
\`bundled:NAME\`, or a URL.

${sections.join('\n')}`;
}
