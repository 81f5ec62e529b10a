/**
 * Which rows train and which evaluate: eval_fraction f keeps the first floor(n·(1−f)) rows for training, after a
 * shuffle by the seed where data.shuffle says so. Philox stream "split" of the seed (random.ts).
 */
import type { Data } from '../recipe/schema.ts';
import { permutation, STREAM } from './random.ts';

export interface Split {
  /** Row numbers from 0 in the file, in the order in which they train. */
  readonly train: Uint32Array;
  readonly eval: Uint32Array;
}

export function splitRows(rows: number, data: Pick<Data, 'eval_fraction' | 'shuffle'>, seed: number): Split {
  const order = data.shuffle ? permutation(rows, seed, STREAM.split) : Uint32Array.from({ length: rows }, (_, i) => i);
  const train = Math.floor(rows * (1 - data.eval_fraction));
  return { train: order.slice(0, train), eval: order.slice(train) };
}
