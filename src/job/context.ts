/** What opening models and data needs of a run, whether it is being worked on, planned, or only talked to. */
import type { Importance } from '../models/importance.ts';
import type { KeptTokens } from '../models/trim-vocabulary.ts';
import type { Recipe } from '../recipe/schema.ts';
import type { Sources } from './sources.ts';

export interface RecipeContext {
  readonly recipe: Recipe;
  readonly sources: Sources;
  /** As the person named it; errors repeat it. */
  readonly recipeFile: string;
  /** For a student that is cut by importance, where that was measured; a plan needs shapes only. */
  readonly importance?: Importance;
  /** For a student whose vocabulary is trimmed, once its rows were read (rows.ts). */
  readonly vocabulary?: KeptTokens;
}
