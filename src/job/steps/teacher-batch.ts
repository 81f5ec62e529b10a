/**
 * What the cache says about a micro-batch, laid out as the training step takes it: at every place whose next token
 * counts the teacher's k entries and log Σ exp(z / T) at the run's temperature; anything elsewhere.
 */
import type { Batch } from '../../data/batch.ts';
import { distinct } from '../../engine/ops/linear-sample/draw.ts';
import type { CacheHeader, CacheRow, LogitCache } from '../../formats/logit-cache.ts';
import type { TeacherBatch } from '../../train/batch.ts';

/** What an entry that a position lacks weighs: nothing. */
const NEVER = -1e30;

export interface CacheView {
  readonly cache: LogitCache;
  /** Entries a position that the run uses; the cache may hold more, but no draws that are left out. */
  readonly k: number;
  readonly temperature: number;
  /** Of the student: an entry beyond it (padding of a larger vocabulary) is left out. */
  readonly vocab_size: number;
  /** Of a student whose vocabulary is trimmed: its id of each token, -1 for those that are gone and left out as well. */
  readonly ids?: Int32Array;
}

/**
 * What is left out belongs to the tail, as what the cache never held: log Σ exp is over the whole vocabulary. Of draws each
 * token is an entry once, with how often it counts; what is left out of them is left out of the sum that they estimate.
 * @param first row of the cache that the batch's row 0 is: the evaluation rows follow the training rows
 */
export async function teacherBatch(view: CacheView, batch: Batch, first: number): Promise<TeacherBatch> {
  const { cache, k, temperature, vocab_size } = view;
  const { header } = cache;
  const t = header.temperatures.indexOf(temperature);
  const places = batch.rows * batch.length;
  const ids = new Int32Array(places * k);
  const logits = new Float32Array(places * k).fill(NEVER);
  const log_z = new Float32Array(places);
  const weights = header.entries === 'sampling' ? new Float32Array(places * k) : undefined;
  for (let i = 0; i < places * k; i++) ids[i] = i % k;
  const idOf = (id: number): number => (view.ids ? (view.ids[id] ?? -1) : id < vocab_size ? id : -1);
  for (const { row, at, start } of batch.documents) {
    const said = await cache.read(first + row);
    said.positions.forEach((position, n) => {
      const place = at * batch.length + start + position;
      let filled = 0;
      for (const [i, weight] of entriesAt(said, n, header)) {
        const id = idOf(said.ids[i]!);
        if (id < 0) continue;
        if (filled === k) break;
        ids[place * k + filled] = id;
        logits[place * k + filled] = said.logits[i]!;
        if (weights) weights[place * k + filled] = weight;
        filled++;
      }
      if (filled < k) fill(ids.subarray(place * k, (place + 1) * k), filled);
      log_z[place] = said.log_z[n * header.temperatures.length + t]!;
    });
  }
  return { ids, logits, log_z, ...(weights && { weights }) };
}

/** Of a row's position its entries, by their index in the row, and how often each counts. */
function* entriesAt(
  { ids, logits, log_z }: CacheRow,
  n: number,
  { k, entries, temperatures }: CacheHeader,
): Generator<readonly [index: number, weight: number], void> {
  if (entries === 'topk') {
    for (let i = n * k; i < (n + 1) * k; i++) yield [i, 1];
    return;
  }
  const at = <A extends Int32Array | Float32Array>(all: A, each: number): A =>
    all.subarray(n * each, (n + 1) * each) as A;
  const drawn = distinct(at(ids, k), at(logits, k), at(log_z, temperatures.length), temperatures);
  for (const [i, weight] of drawn) yield [n * k + i, weight];
}

/** Fewer than k entries: the rest is filled with other tokens, which have no weight; none twice. */
function fill(ids: Int32Array, filled: number): void {
  const used = new Set(ids.subarray(0, filled));
  for (let id = 0; filled < ids.length; id++) if (!used.has(id)) ids[filled++] = id;
}
