/**
 * A written file against the engine: the same tokens give the same logits, whichever way a caller goes through them.
 *
 *   whole       all tokens at once
 *   cached      the first half, then the rest against the cache
 *   padded      two sequences of different length in one batch, padded on the left; the last token against the cache
 *
 * A longrope model turns all keys of a sequence by other numbers once it is longer than its original length, one of dynamic
 * scaling with each token from there on: a cache that was filled before that (and a batch of both kinds) is another
 * computation, in transformers too, and is not compared.
 */
import type { OnnxDtype } from '../onnx/precision/precision.ts';
import { AHEAD, heldOutLoss, type HeldOutRow } from './held-out.ts';
import { DecoderSession, type OnnxFile, type OrtModule } from './session.ts';

export interface ReferenceSequence {
  /** At least two tokens. */
  readonly input_ids: readonly number[];
  /** The engine's logits at each of them, [tokens, vocabulary]. */
  readonly logits: Float32Array;
  /** Of an encoder, [tokens, hidden]; its logits are empty where it has no head. */
  readonly last_hidden_state?: Float32Array;
}

export interface Verification {
  /** Largest difference over the largest logit, of all three ways. */
  readonly max_logit_difference: number;
  /** The way that the largest difference was found on. */
  readonly worst: 'whole' | 'cached' | 'padded';
  /** Share of positions where the most likely token is the engine's; of a model that gives logits. */
  readonly top1_agreement?: number;
  /** Of the rows that were held out, where there are any. */
  readonly eval_loss?: number;
}

/**
 * Largest difference over the largest logit that a file may show. Four bits have no such bound: what they cost depends on
 * the model (0.1 for a tiny one, 0.5 for 30 layers that had been quantised before), so they are only held to be the same
 * model, and their agreement is shown.
 */
export const TOLERANCE: Readonly<Record<OnnxDtype, number>> = { fp32: 1e-3, fp16: 3e-2, q8: 2e-1, q4: 1, q4f16: 1 };

/** @param turnedAlike whether sequences of so many tokens have the same rotary tables */
export async function verify(
  ort: OrtModule,
  file: OnnxFile,
  sequences: readonly ReferenceSequence[],
  turnedAlike: TurnedAlike = () => true,
  heldOut: readonly HeldOutRow[] = [],
): Promise<Verification> {
  const session = await DecoderSession.open(ort, file);
  try {
    const compared = await compare(session, sequences, turnedAlike);
    return heldOut.length === 0 ? compared : { ...compared, eval_loss: await lossOf(session, heldOut, AHEAD.decoder) };
  } finally {
    await session.close();
  }
}

type TurnedAlike = (tokens: number, others: number) => boolean;

/** On rows one by one. */
export async function lossOf(session: DecoderSession, rows: readonly HeldOutRow[], ahead: 0 | 1): Promise<number> {
  const logits: Float32Array[] = [];
  for (const { input_ids } of rows) {
    const answer = await session.run({ input_ids: [input_ids], attention_mask: [input_ids.map(() => 1)] });
    logits.push(answer.logits);
  }
  return heldOutLoss(rows, logits, ahead);
}

async function compare(
  session: DecoderSession,
  sequences: readonly ReferenceSequence[],
  turnedAlike: TurnedAlike,
): Promise<Verification> {
  const largest = sequences.reduce((max, { logits }) => Math.max(max, largestOf(logits)), 0) || 1;
  const found = { whole: 0, cached: 0, padded: 0 };
  let positions = 0;
  let agreed = 0;
  const see = (way: keyof typeof found, got: Float32Array, wanted: Float32Array): void => {
    found[way] = Math.max(found[way], largestDifference(got, wanted));
  };

  for (const { input_ids, logits } of sequences) {
    const tokens = input_ids.length;
    const vocabulary = logits.length / tokens;
    const ones = new Array<number>(tokens).fill(1);
    const whole = await session.run({ input_ids: [input_ids], attention_mask: [ones] });
    see('whole', whole.logits, logits);
    agreed += top1(whole.logits, logits, tokens);
    positions += tokens;
    const half = tokens >> 1;
    if (!turnedAlike(half, tokens)) continue;
    const first = await session.run({ input_ids: [input_ids.slice(0, half)], attention_mask: [ones.slice(0, half)] });
    const rest = await session.run({ input_ids: [input_ids.slice(half)], attention_mask: [ones] }, first.past);
    see('cached', first.logits, logits.subarray(0, half * vocabulary));
    see('cached', rest.logits, logits.subarray(half * vocabulary));
  }

  const [a, b] = [
    sequences[0]!,
    sequences.find(({ input_ids }) => input_ids.length !== sequences[0]!.input_ids.length),
  ];
  if (b && [a, b].every(({ input_ids }) => turnedAlike(1, input_ids.length))) {
    const pair = [a, b];
    const width = Math.max(...pair.map(({ input_ids }) => input_ids.length));
    const pads = pair.map(({ input_ids }) => width - input_ids.length);
    const padded = pair.map(({ input_ids }, row) => [
      ...new Array<number>(pads[row]!).fill(input_ids[0]!),
      ...input_ids,
    ]);
    const masks = pads.map((pad) => Array.from({ length: width }, (_, t) => (t < pad ? 0 : 1)));
    const most = await session.run({
      input_ids: padded.map((ids) => ids.slice(0, -1)),
      attention_mask: masks.map((mask) => mask.slice(0, -1)),
    });
    const last = await session.run({ input_ids: padded.map((ids) => ids.slice(-1)), attention_mask: masks }, most.past);
    pair.forEach(({ input_ids, logits }, row) => {
      const vocabulary = logits.length / input_ids.length;
      const rowStart = row * (width - 1) * vocabulary;
      see(
        'padded',
        most.logits.subarray(rowStart + pads[row]! * vocabulary, rowStart + (width - 1) * vocabulary),
        logits.subarray(0, -vocabulary),
      );
      see('padded', last.logits.subarray(row * vocabulary, (row + 1) * vocabulary), logits.subarray(-vocabulary));
    });
  }

  const ways = Object.entries(found) as [keyof typeof found, number][];
  const [worst, difference] = ways.reduce((most, way) => (way[1] > most[1] ? way : most));
  return { max_logit_difference: difference / largest, worst, top1_agreement: agreed / positions };
}

export function largestOf(values: ArrayLike<number>): number {
  let largest = 0;
  for (let i = 0; i < values.length; i++) largest = Math.max(largest, Math.abs(values[i]!));
  return largest;
}

/** Infinite where a value is no number or the lengths differ. */
export function largestDifference(got: ArrayLike<number>, wanted: ArrayLike<number>): number {
  if (got.length !== wanted.length) return Infinity;
  let largest = 0;
  for (let i = 0; i < got.length; i++) {
    const difference = Math.abs(got[i]! - wanted[i]!);
    if (!(difference <= largest)) largest = Number.isNaN(difference) ? Infinity : difference;
  }
  return largest;
}

/** At how many places the largest logit is the same one's. */
export function top1(got: Float32Array, wanted: Float32Array, tokens: number): number {
  const width = wanted.length / tokens;
  let same = 0;
  for (let t = 0; t < tokens && width > 0; t++) {
    const at = (all: Float32Array): number => indexOfLargest(all.subarray(t * width, (t + 1) * width));
    if (at(got) === at(wanted)) same++;
  }
  return same;
}

function indexOfLargest(values: Float32Array): number {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i]! > values[best]!) best = i;
  return best;
}
