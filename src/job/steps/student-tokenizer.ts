/** The student's tokenizer, with the tokens that the recipe adds to it. */
import type { FileSource } from '../../formats/byte-source.ts';
import { addTokens } from '../../models/add-tokens.ts';
import { loadTokenizer, type Tokenizer } from '../../models/tokenizer.ts';
import type { RecipeContext } from '../context.ts';

type Context = Pick<RecipeContext, 'recipe' | 'sources'>;

export async function studentFolder({ recipe, sources }: Context): Promise<FileSource> {
  const { model, revision, add_tokens } = recipe.student;
  return (await addTokens(await sources.model('student.model', model, revision), add_tokens)).folder;
}

export async function studentTokenizer(context: Context): Promise<Tokenizer> {
  return loadTokenizer(await studentFolder(context));
}
