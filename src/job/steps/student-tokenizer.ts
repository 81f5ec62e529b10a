/** The student's tokenizer, with the tokens that the recipe adds to it. */
import { addTokens } from '../../models/add-tokens.ts';
import { loadTokenizer, type Tokenizer } from '../../models/tokenizer.ts';
import type { RecipeContext } from '../context.ts';

export async function studentTokenizer({
  recipe,
  sources,
}: Pick<RecipeContext, 'recipe' | 'sources'>): Promise<Tokenizer> {
  const { model, revision, add_tokens } = recipe.student;
  const { folder } = await addTokens(await sources.model('student.model', model, revision), add_tokens);
  return loadTokenizer(folder);
}
