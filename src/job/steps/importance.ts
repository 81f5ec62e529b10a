/**
 * What the parts of the model that is cut do on the run's own rows, measured once and kept: another device may round
 * otherwise, and a run that goes on must go on with the same student.
 */
import { InputError } from '../../formats/input-error.ts';
import type { Keep } from '../../formats/keep.ts';
import { measureImportance, type Importance, type Sample } from '../../models/importance.ts';
import { loadParameters } from '../../models/on-device.ts';
import type { Recipe } from '../../recipe/schema.ts';
import type { ActiveRun } from '../active-run.ts';
import type { RunData } from './data.ts';
import { baseOf } from './student.ts';

export const IMPORTANCE = 'importance';
const FILE = 'importance.json';
/** Kept with what was measured; another number as soon as a cut makes other weights of the same measurements. */
const CUT = 2;
/** Rows that are looked at, at most; measureImportance takes of them what fills its batches. */
const ROWS = 200;

/** @param newHead a head of random weights guesses nothing */
export const samplesOf = ({ prepared }: RunData, newHead: boolean): Sample[] =>
  prepared.train.slice(0, ROWS).map(({ input_ids, labels }) => (newHead ? { input_ids } : { input_ids, labels }));

/** undefined where the recipe does not ask for it. */
export async function importanceOf(run: ActiveRun, data: RunData): Promise<Importance | undefined> {
  if (run.recipe.student.compress?.init !== 'importance') return undefined;
  const keep = run.keep(IMPORTANCE);
  const known = await keptImportance(keep, run.recipe, run.recipeFile);
  if (known) return known;
  const { model, newHead } = await baseOf(run);
  const device = await run.device();
  const tensors = await loadParameters(device, model);
  try {
    const samples = samplesOf(data, newHead);
    const measured = await measureImportance(device, model.options, tensors, samples, (done, of) =>
      run.progress('student', done, of, 'rows'),
    );
    await keep.put([{ key: FILE, bytes: new TextEncoder().encode(JSON.stringify({ cut: CUT, ...measured })) }], {
      durable: true,
    });
    return measured;
  } finally {
    for (const tensor of tensors.values()) device.freeTensor(tensor);
  }
}

/**
 * What an earlier sitting measured. One of an older version did not measure what a narrower hidden state is now made of: its
 * student would go on with other weights than it was trained with.
 * @param keep of a run's area `importance`
 * @param file what errors call the run
 */
export async function keptImportance(
  keep: Keep,
  { student: { compress } }: Pick<Recipe, 'student'>,
  file: string,
): Promise<Importance | undefined> {
  const bytes = await keep.get(FILE);
  if (!bytes) return undefined;
  const { cut, ...known } = JSON.parse(new TextDecoder().decode(bytes)) as Importance & { readonly cut?: number };
  if (cut === CUT || (cut === undefined && known.normalized)) return known;
  if (cut === undefined && compress?.hidden_size === undefined) return { ...known, normalized: {}, values: [] };
  const what = 'another version of Stillroom cut this run’s student, and this one would make other weights of it';
  throw new InputError(file, 'student.compress', what, 'a new run, or the version that began this one');
}
