/**
 * What the schema already names and this version cannot do yet. A recipe that asks for it is refused before anything
 * starts, in one place and in words; whoever builds a thing takes its line away.
 */
import { InputError } from '../formats/input-error.ts';
import type { Recipe } from './schema.ts';

type Unbuilt = readonly [place: string, asked: (recipe: Recipe) => unknown, instead: string];

/** `asked` gives the value that can't be served, or undefined/false where the recipe doesn't ask for it. */
export const UNBUILT: readonly Unbuilt[] = [
  ['distill.tail', ({ distill }) => distill.tail === 'sampling' && 'sampling', '"bucket", "ignore" or "renormalize"'],
];

export function refuseUnbuilt(recipe: Recipe, file: string): void {
  for (const [place, asked, instead] of UNBUILT) {
    const value = asked(recipe);
    if (value === undefined || value === null || value === false || value === 0) continue;
    throw new InputError(file, place, `${JSON.stringify(value)} is not built yet`, instead);
  }
}
