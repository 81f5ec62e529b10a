/** What the student learns from a teacher behind a server: how probable it finds words, the answers that it writes, or both. */
import type { RecipeInput } from '../../../recipe/schema.ts';
import { setAt, valueAt } from '../../state/recipe.svelte.ts';

export const LEARNT = ['probabilities', 'answers', 'both'] as const;
export type Learnt = (typeof LEARNT)[number];

export function learnt({ distill }: RecipeInput): Learnt {
  if (!distill?.answers) return 'probabilities';
  return distill.objective === 'none' ? 'answers' : 'both';
}

/** undefined: from no server any more. */
export function learnFromServer(what: Learnt | undefined): void {
  setAt('distill.answers', what === 'answers' || what === 'both' ? (valueAt('distill.answers') ?? {}) : undefined);
  setAt('distill.objective', what === 'answers' ? 'none' : undefined);
  if (what === 'answers') setAt('distill.alpha', undefined);
  // A server knows its probabilities at one temperature alone.
  setAt('distill.temperature', what === undefined || what === 'answers' ? undefined : 1);
}
