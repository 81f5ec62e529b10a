/** A teacher that runs here asked about every row, batch after batch, into the cache. */
import { Batches, evalBatchSettings } from '../../data/batch.ts';
import { countedPositions, type TokenizedRow } from '../../data/tokenize.ts';
import type { CacheRow, WritableLogitCache } from '../../formats/logit-cache.ts';
import type { TeacherInputs, TeacherLogits } from '../../teacher/capture.ts';
import { drawPoints } from '../../teacher/points.ts';
import type { ActiveRun } from '../active-run.ts';
import { CacheWriter } from './cache-writer.ts';
import type { RunData } from './data.ts';

export interface Asked {
  logits(batch: TeacherInputs): Promise<TeacherLogits>;
}

/** Asks about the rows that the cache lacks. @returns seconds for all rows, by the rate of those */
export async function askAll(
  run: ActiveRun,
  teacher: Asked,
  cache: WritableLogitCache,
  rows: readonly TokenizedRow[],
  { tokenizer, prepared: { masked } }: RunData,
): Promise<number> {
  const { training, data, seed } = run.recipe;
  const { k, entries } = cache.header;
  // The same batches in every sitting, so that a row is computed beside the same neighbours.
  const batches = new Batches(
    rows,
    evalBatchSettings(training.per_device_eval_batch_size, {
      packing: false,
      max_length: data.max_length,
      pad_token_id: tokenizer.pad_token_id,
    }),
  );
  const begun = cache.rows;
  const writer = new CacheWriter(run, cache, rows.length);
  for (const batch of batches.epoch()) {
    const missing = batch.documents.filter(({ row }) => row >= begun);
    if (missing.length === 0) continue;
    await run.breathe();
    const positionsOf = (row: number): number[] => countedPositions(rows[row]!.labels, masked);
    const points = entries === 'sampling' ? new Float32Array(batch.rows * batch.length * k) : undefined;
    if (points) {
      for (const { row, at } of missing)
        for (const position of positionsOf(row)) {
          const place = at * batch.length + position;
          drawPoints(seed, row, position, points.subarray(place * k, (place + 1) * k));
        }
    }
    const logits = await teacher.logits({ ...batch, points });
    await writer.add(missing.map(({ row, at }) => cacheRow(positionsOf(row), at * batch.length, logits, cache.header)));
  }
  await writer.flush();
  return writer.seconds();
}

/**
 * Of the logits at every place those of one row that a label is compared with.
 * @param start the row's first place
 */
function cacheRow(
  positions: readonly number[],
  start: number,
  logits: TeacherLogits,
  { k, temperatures }: { k: number; temperatures: readonly number[] },
): CacheRow {
  const row: CacheRow = {
    positions: Int32Array.from(positions),
    ids: new Int32Array(positions.length * k),
    logits: new Float32Array(positions.length * k),
    log_z: new Float32Array(positions.length * temperatures.length),
  };
  positions.forEach((t, i) => {
    const place = start + t;
    row.ids.set(logits.ids.subarray(place * k, (place + 1) * k), i * k);
    row.logits.set(logits.logits.subarray(place * k, (place + 1) * k), i * k);
    const n = temperatures.length;
    row.log_z.set(logits.log_z.subarray(place * n, (place + 1) * n), i * n);
  });
  return row;
}
