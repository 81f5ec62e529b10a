/** How surprised a model is by rows that nothing was trained on: what a smaller precision costs, in the unit of eval_loss. */
export interface HeldOut {
  readonly rows: readonly HeldOutRow[];
  /** The engine's loss on them. */
  readonly loss: number;
  /** What it is with other weights in place of the model's: of a file that ONNX Runtime does not open. */
  readonly lossWith?: (readF32: (name: string) => Promise<Float32Array<ArrayBuffer>>) => Promise<number>;
}

export interface HeldOutRow {
  readonly input_ids: readonly number[];
  /** What each token should have been, −100 where it does not count. */
  readonly labels: readonly number[];
}

/** Of which token the logits at a place are: a decoder's of the next, an encoder's of that which is masked there. */
export const AHEAD = { decoder: 1, encoder: 0 } as const;

/** Rows that files are measured on, and tokens of each at most: a second or two of a small model without a GPU. */
const MOST = { rows: 4, tokens: 48 };

/** The first rows that have something to guess, short enough to be measured again with every file. */
export function heldOutRows(
  rows: readonly { readonly input_ids: ArrayLike<number>; readonly labels: ArrayLike<number> }[],
  ahead: 0 | 1,
): HeldOutRow[] {
  const cut = (values: ArrayLike<number>): number[] => Array.from(values).slice(0, MOST.tokens);
  return rows
    .map(({ input_ids, labels }) => ({ input_ids: cut(input_ids), labels: cut(labels) }))
    .filter(({ labels }) => labels.some((label, at) => at >= ahead && label !== -100))
    .slice(0, MOST.rows);
}

/**
 * Mean −log p of the counted tokens, in nats.
 * @param logits f32 [tokens, vocabulary] of each row
 */
export function heldOutLoss(
  rows: readonly HeldOutRow[],
  logits: readonly Float32Array[],
  ahead: 0 | 1 = AHEAD.decoder,
): number {
  let sum = 0;
  let count = 0;
  rows.forEach(({ input_ids, labels }, row) => {
    const width = logits[row]!.length / input_ids.length;
    for (let t = 0; t + ahead < labels.length; t++) {
      const label = labels[t + ahead]!;
      if (label === -100) continue;
      const at = logits[row]!.subarray(t * width, (t + 1) * width);
      let largest = -Infinity;
      for (const value of at) largest = Math.max(largest, value);
      let total = 0;
      for (const value of at) total += Math.exp(value - largest);
      sum += largest + Math.log(total) - at[label]!;
      count++;
    }
  });
  return sum / count;
}

/**
 * The same of a model, asked row by row: all of them at once may be more than a device binds.
 * @param answer logits f32 [tokens, vocabulary] of a row
 */
export async function lossBy(
  rows: readonly HeldOutRow[],
  ahead: 0 | 1,
  answer: (input_ids: readonly number[]) => Promise<Float32Array>,
): Promise<number> {
  const logits: Float32Array[] = [];
  for (const { input_ids } of rows) logits.push(await answer(input_ids));
  return heldOutLoss(rows, logits, ahead);
}
