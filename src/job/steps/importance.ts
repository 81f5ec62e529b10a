/**
 * What the parts of the model that is cut do on the run's own rows, measured once and kept: another device may round
 * otherwise, and a run that goes on must go on with the same student.
 */
import type { Keep } from '../../formats/keep.ts';
import { measureImportance, type Importance } from '../../models/importance.ts';
import { loadParameters } from '../../models/on-device.ts';
import type { ActiveRun } from '../active-run.ts';
import type { RunData } from './data.ts';
import { baseOf } from './student.ts';

export const IMPORTANCE = 'importance';
const FILE = 'importance.json';
/** Rows that are looked at, at most; measureImportance takes of them what fills its batches. */
export const IMPORTANCE_ROWS = 200;

/** undefined where the recipe does not ask for it. */
export async function importanceOf(run: ActiveRun, data: RunData): Promise<Importance | undefined> {
  if (run.recipe.student.compress?.init !== 'importance') return undefined;
  const keep = run.keep(IMPORTANCE);
  const known = await keptImportance(keep);
  if (known) return known;
  const model = await baseOf(run);
  const device = await run.device();
  const tensors = await loadParameters(device, model);
  try {
    const rows = data.prepared.train.slice(0, IMPORTANCE_ROWS).map(({ input_ids }) => [...input_ids]);
    const measured = await measureImportance(device, model.options, tensors, rows, (done, of) =>
      run.progress('student', done, of, 'rows'),
    );
    await keep.put([{ key: FILE, bytes: new TextEncoder().encode(JSON.stringify(measured)) }], { durable: true });
    return measured;
  } finally {
    for (const tensor of tensors.values()) device.freeTensor(tensor);
  }
}

/** @param keep of a run's area `importance` */
export async function keptImportance(keep: Keep): Promise<Importance | undefined> {
  const bytes = await keep.get(FILE);
  return bytes && (JSON.parse(new TextDecoder().decode(bytes)) as Importance);
}
