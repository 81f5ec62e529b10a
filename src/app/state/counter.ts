/** The counter-test: the same student, rows, steps and seed, from the text alone; and how two figures compare. */
import type { Figure, RunSummary } from '../../job/protocol.ts';
import { parseRecipe } from '../../recipe/parse.ts';
import type { RecipeInput } from '../../recipe/schema.ts';
import { withoutTeacher } from './recipe.svelte.ts';

/** Everything but the name, keys in order. */
function essence(input: RecipeInput): string {
  const { name: _, ...rest } = parseRecipe(input, 'recipe');
  return JSON.stringify(rest, (_key, value: unknown) =>
    typeof value === 'object' && value !== null && !Array.isArray(value)
      ? Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)))
      : value,
  );
}

/** The newest kept run that is the counter-test of this one. */
export function counterTestOf(run: RunSummary, list: readonly RunSummary[]): RunSummary | undefined {
  const wanted = essence(withoutTeacher(run.recipe));
  return list.find(({ id, recipe }) => id !== run.id && recipe.teacher.kind === 'none' && essence(recipe) === wanted);
}

export type Verdict = 'better' | 'same' | 'worse';

/** Taught against untaught: a difference only where the intervals do not meet. */
export function compare(taught: Figure, alone: Figure): Verdict {
  if (taught.low > alone.high) return 'better';
  return taught.high < alone.low ? 'worse' : 'same';
}
