/** How surprised a model is by rows that nothing was trained on: what a smaller precision costs, in the unit of eval_loss. */
export interface HeldOutRow {
  readonly input_ids: readonly number[];
  /** What each token should have been, −100 where it does not count. */
  readonly labels: readonly number[];
}

/**
 * Mean −log p of the counted tokens, in nats.
 * @param logits f32 [tokens, vocabulary] of each row; those at a place are of the next token
 */
export function heldOutLoss(rows: readonly HeldOutRow[], logits: readonly Float32Array[]): number {
  let sum = 0;
  let count = 0;
  rows.forEach(({ input_ids, labels }, row) => {
    const width = logits[row]!.length / input_ids.length;
    for (let t = 0; t + 1 < labels.length; t++) {
      const label = labels[t + 1]!;
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
