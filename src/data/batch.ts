/**
 * Token rows ─▶ micro-batches: which rows make which optimiser step, and their tensors.
 *
 * Every epoch sees each row (or pack of rows) once, in an order that is a pure function of seed and epoch; a step takes
 * gradient_accumulation_steps micro-batches of per_device_train_batch_size rows. The last micro-batch of an epoch may
 * be short, and so may the last step (transformers: dataloader_drop_last=False). A short micro-batch keeps its shape:
 * its missing rows are padding.
 *
 * Rows are padded on the right to the smallest of a few planned lengths, so that a graph is compiled once for each.
 * Lengths never change the order of rows.
 */
import type { Training } from '../recipe/schema.ts';
import { packBfd } from './pack.ts';
import { permutation, STREAM } from './random.ts';
import type { TokenizedRow } from './tokenize.ts';

/** A document (one tokenized row) and where in the batch it stands. */
export interface Placed {
  /** Place of the row in the list that the batches were made from: the row of a teacher's cache. */
  readonly row: number;
  /** Row of the batch. */
  readonly at: number;
  /** First token's place within it. */
  readonly start: number;
  readonly length: number;
}

/** All tensors i32 [rows · length], row-major. */
export interface Batch {
  readonly rows: number;
  readonly length: number;
  readonly input_ids: Int32Array;
  /** Not shifted; -100 does not count. */
  readonly labels: Int32Array;
  /** From 0 in every document. */
  readonly position_ids: Int32Array;
  /** 0 is padding; the documents of a row count from 1. */
  readonly segment_ids: Int32Array;
  /** Rows that hold something: the last batch of an epoch may be short. */
  readonly filled_rows: number;
  readonly documents: readonly Placed[];
}

export interface BatchSettings {
  readonly batch_size: number;
  readonly gradient_accumulation_steps: number;
  readonly shuffle: boolean;
  readonly seed: number;
  readonly packing: boolean;
  /** data.max_length: capacity of a pack, and the longest a row can be. */
  readonly max_length: number;
  readonly pad_token_id: number;
}

export function trainBatchSettings(
  training: Pick<Training, 'per_device_train_batch_size' | 'gradient_accumulation_steps'>,
  rest: Pick<BatchSettings, 'shuffle' | 'seed' | 'packing' | 'max_length' | 'pad_token_id'>,
): BatchSettings {
  return {
    ...rest,
    batch_size: training.per_device_train_batch_size,
    gradient_accumulation_steps: training.gradient_accumulation_steps,
  };
}

/** In the rows' own order, one micro-batch a step: evaluation, and the teacher's pass. */
export function evalBatchSettings(
  batch_size: number,
  rest: Pick<BatchSettings, 'packing' | 'max_length' | 'pad_token_id'>,
): BatchSettings {
  return { ...rest, batch_size, gradient_accumulation_steps: 1, shuffle: false, seed: 0 };
}

export class Batches {
  /** What a batch's row holds: one row, or a pack of them. */
  private readonly sequences: readonly (readonly number[])[];
  /** Planned lengths, rising. */
  readonly lengths: readonly number[];
  private order: { epoch: number; of: Uint32Array } | undefined;

  constructor(
    private readonly rows: readonly TokenizedRow[],
    private readonly settings: BatchSettings,
  ) {
    const lengths = rows.map(({ input_ids }) => input_ids.length);
    this.sequences = settings.packing ? packBfd(lengths, settings.max_length) : rows.map((_, i) => [i]);
    const tokens = this.sequences.map((sequence) => sequence.reduce((sum, row) => sum + lengths[row]!, 0));
    this.lengths = planLengths(tokens, settings.batch_size);
  }

  /** Rows, or packs where rows are packed: what recipe/derived.ts counts steps by. */
  get count(): number {
    return this.sequences.length;
  }

  get batchesPerEpoch(): number {
    return Math.ceil(this.count / this.settings.batch_size);
  }

  get stepsPerEpoch(): number {
    return Math.ceil(this.batchesPerEpoch / this.settings.gradient_accumulation_steps);
  }

  /** Of all rows. */
  get tokens(): number {
    return this.rows.reduce((sum, { input_ids }) => sum + input_ids.length, 0);
  }

  /** How many of the first epoch's micro-batches have each planned length. */
  get lengthCounts(): ReadonlyMap<number, number> {
    const counts = new Map<number, number>();
    for (let i = 0; i < this.batchesPerEpoch; i++) {
      const length = this.lengthOf(this.chosen(0, i));
      counts.set(length, (counts.get(length) ?? 0) + 1);
    }
    return counts;
  }

  /** The micro-batches of an optimiser step, counted from 0 over all epochs. A run resumes by asking for a later one. */
  step(step: number): Batch[] {
    if (this.count === 0) return [];
    const epoch = Math.floor(step / this.stepsPerEpoch);
    const accumulated = this.settings.gradient_accumulation_steps;
    const first = (step % this.stepsPerEpoch) * accumulated;
    const last = Math.min(first + accumulated, this.batchesPerEpoch);
    return Array.from({ length: last - first }, (_, i) => this.batch(epoch, first + i));
  }

  /** Every micro-batch of one epoch. */
  *epoch(epoch = 0): Generator<Batch> {
    for (let i = 0; i < this.batchesPerEpoch; i++) yield this.batch(epoch, i);
  }

  private batch(epoch: number, i: number): Batch {
    return this.lay(this.chosen(epoch, i));
  }

  /** The sequences of a micro-batch. */
  private chosen(epoch: number, i: number): (readonly number[])[] {
    const { batch_size } = this.settings;
    const order = this.orderOf(epoch);
    return [...order.subarray(i * batch_size, (i + 1) * batch_size)].map((sequence) => this.sequences[sequence]!);
  }

  private lengthOf(chosen: readonly (readonly number[])[]): number {
    const tokens = (sequence: readonly number[]) =>
      sequence.reduce((sum, row) => sum + this.rows[row]!.input_ids.length, 0);
    const longest = Math.max(...chosen.map(tokens));
    return this.lengths.find((planned) => planned >= longest)!;
  }

  private orderOf(epoch: number): Uint32Array {
    if (this.order?.epoch !== epoch) {
      const of = this.settings.shuffle
        ? permutation(this.count, this.settings.seed, STREAM.epoch + epoch)
        : Uint32Array.from({ length: this.count }, (_, i) => i);
      this.order = { epoch, of };
    }
    return this.order.of;
  }

  private lay(chosen: readonly (readonly number[])[]): Batch {
    const { batch_size: rows, pad_token_id } = this.settings;
    const length = this.lengthOf(chosen);
    const input_ids = new Int32Array(rows * length).fill(pad_token_id);
    const labels = new Int32Array(rows * length).fill(-100);
    const position_ids = new Int32Array(rows * length);
    const segment_ids = new Int32Array(rows * length);
    const documents: Placed[] = [];
    chosen.forEach((sequence, at) => {
      let start = 0;
      sequence.forEach((row, k) => {
        const document = this.rows[row]!;
        const from = at * length + start;
        const size = document.input_ids.length;
        input_ids.set(document.input_ids, from);
        labels.set(document.labels, from);
        for (let t = 0; t < size; t++) position_ids[from + t] = t;
        segment_ids.fill(k + 1, from, from + size);
        documents.push({ row, at, start, length: size });
        start += size;
      });
    });
    return { rows, length, input_ids, labels, position_ids, segment_ids, filled_rows: chosen.length, documents };
  }
}

/** Each planned length is a graph to compile, which takes about as long as a few steps. */
const MOST_LENGTHS = 4;
/** A length more must save this share of the tokens computed. */
const WORTH = 0.08;
/** Kernels' tiles; a length is rounded up to it. */
const MULTIPLE = 8;

/**
 * At most four lengths, the last of them enough for the longest row, that keep the expected padding of a batch of
 * random rows small: a batch is as long as its longest row, and P(longest ≤ L) = P(row ≤ L)^batch_size.
 */
export function planLengths(tokens: readonly number[], batchSize: number): number[] {
  const up = (length: number) => Math.max(MULTIPLE, Math.ceil(length / MULTIPLE) * MULTIPLE);
  const sorted = tokens.map(up).sort((a, b) => a - b);
  if (sorted.length === 0) return [MULTIPLE];
  const candidates = [...new Set(sorted)];
  // Chance that a batch fits into each candidate.
  let seen = 0;
  const fits = candidates.map((length) => {
    while (seen < sorted.length && sorted[seen]! <= length) seen++;
    return (seen / sorted.length) ** batchSize;
  });
  // cost[j]: expected length of the batches that fit into candidate j, the last chosen so far; one more choice a round.
  const last = candidates.length - 1;
  let cost = candidates.map((length, j) => length * fits[j]!);
  let chosen = candidates.map((_, j) => [j]);
  for (let round = 1; round < MOST_LENGTHS; round++) {
    const before = cost;
    const beforeChosen = chosen;
    cost = [];
    chosen = [];
    candidates.forEach((length, j) => {
      let best = before[j]!;
      let path = beforeChosen[j]!;
      for (let i = 0; i < j; i++) {
        const with_i = before[i]! + length * (fits[j]! - fits[i]!);
        if (with_i < best) [best, path] = [with_i, [...beforeChosen[i]!, j]];
      }
      cost.push(best);
      chosen.push(path);
    });
    if (cost[last]! > before[last]! * (1 - WORTH)) {
      chosen = beforeChosen;
      break;
    }
  }
  return chosen[last]!.map((j) => candidates[j]!);
}
