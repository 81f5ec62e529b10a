/**
 * What the cache says about a micro-batch, laid out as the training step takes it: at every place whose next token
 * counts the teacher's k entries and log Σ exp(z / T) at the run's temperature; anything elsewhere.
 */
import type { Batch } from '../../data/batch.ts';
import type { LogitCache } from '../../formats/logit-cache.ts';
import type { TeacherBatch } from '../../train/batch.ts';

/** What an entry that a position lacks weighs: nothing. */
const NEVER = -1e30;

export interface CacheView {
  readonly cache: LogitCache;
  /** Entries a position that the run uses; the cache may hold more. */
  readonly k: number;
  readonly temperature: number;
  /** Of the student: an entry beyond it (padding of a larger vocabulary) is left out. */
  readonly vocab_size: number;
}

/** @param first row of the cache that the batch's row 0 is: the evaluation rows follow the training rows */
export async function teacherBatch(view: CacheView, batch: Batch, first: number): Promise<TeacherBatch> {
  const { cache, k, temperature, vocab_size } = view;
  const { header } = cache;
  const t = header.temperatures.indexOf(temperature);
  const places = batch.rows * batch.length;
  const ids = new Int32Array(places * k);
  const logits = new Float32Array(places * k).fill(NEVER);
  const log_z = new Float32Array(places);
  for (let i = 0; i < places * k; i++) ids[i] = i % k;
  for (const { row, at, start } of batch.documents) {
    const said = await cache.read(first + row);
    said.positions.forEach((position, n) => {
      const place = at * batch.length + start + position;
      const entries = said.ids.subarray(n * header.k, n * header.k + k);
      const usable = entries.every((id) => id >= 0 && id < vocab_size);
      if (usable) {
        ids.set(entries, place * k);
        logits.set(said.logits.subarray(n * header.k, n * header.k + k), place * k);
      } else {
        fill(
          entries,
          said.logits.subarray(n * header.k),
          ids.subarray(place * k, (place + 1) * k),
          logits.subarray(place * k, (place + 1) * k),
          vocab_size,
        );
      }
      log_z[place] = said.log_z[n * header.temperatures.length + t]!;
    });
  }
  return { ids, logits, log_z };
}

/** Fewer than k entries: the rest is filled with other tokens of no weight, none twice. */
function fill(from: Int32Array, values: Float32Array, ids: Int32Array, logits: Float32Array, vocab_size: number): void {
  const used = new Set<number>();
  let n = 0;
  from.forEach((id, i) => {
    if (id < 0 || id >= vocab_size) return;
    used.add(id);
    ids[n] = id;
    logits[n++] = values[i]!;
  });
  for (let id = 0; n < ids.length; id++) {
    if (used.has(id)) continue;
    ids[n] = id;
    logits[n++] = NEVER;
  }
}
