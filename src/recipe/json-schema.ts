/** The recipe's JSON Schema, for editors: what public/recipe.schema.json holds. */
import { toJsonSchema } from '@valibot/to-json-schema';
import { recipe } from './schema.ts';

export function recipeJsonSchema(): object {
  return {
    ...toJsonSchema(recipe, { typeMode: 'input', ignoreActions: ['check'], errorMode: 'throw' }),
    title: 'Stillroom recipe',
    description: 'Every choice of a distillation: student, teacher, data, training, evaluation and export.',
  };
}

/** As the file holds it. */
export function recipeJsonSchemaText(): string {
  return `${JSON.stringify(recipeJsonSchema(), null, 2)}\n`;
}
