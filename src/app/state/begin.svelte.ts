/**
 * What happens once the first screen is there: a recipe that came with the link fills the forms (and starts nothing), and
 * the last run of an earlier visit is opened again. A first visit fetches nothing more than the screen.
 */
import { InputError } from '../../formats/input-error.ts';
import { noteFault } from './faults.svelte.ts';
import { registerOffline } from './offline.svelte.ts';
import { setRecipe } from './recipe.svelte.ts';
import { go, route } from './route.svelte.ts';
import { hasLastRun, leaveRun, loadRuns } from './runs.svelte.ts';

let problem = $state<string | undefined>();
/** Why the recipe of the link can't be used. */
export const linkProblem = (): string | undefined => problem;

async function openLink(): Promise<void> {
  if (!location.hash.startsWith('#recipe=')) return;
  const { recipeFromFragment } = await import('../../recipe/share.ts');
  try {
    const shared = await recipeFromFragment(location.hash);
    if (!shared) return;
    leaveRun();
    setRecipe(shared, { link: true });
    problem = undefined;
    go('data');
  } catch (error) {
    if (!(error instanceof InputError)) throw error;
    problem = error.message;
    go('start');
  }
}

export async function begin(): Promise<void> {
  window.addEventListener('hashchange', () => void openLink().catch(noteFault));
  const linked = location.hash.startsWith('#recipe=');
  await openLink();
  registerOffline();
  if (hasLastRun() || route.place !== 'start') await loadRuns(!linked);
}
