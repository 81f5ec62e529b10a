/** What opening models and data needs of a run, whether it is being worked on, planned, or only talked to. */
import type { Recipe } from '../recipe/schema.ts';
import type { Sources } from './sources.ts';

export interface RecipeContext {
  readonly recipe: Recipe;
  readonly sources: Sources;
  /** As the person named it; errors repeat it. */
  readonly recipeFile: string;
}
