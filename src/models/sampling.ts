/** Choosing the next token from logits: greedy at temperature 0, else nucleus sampling (Holtzman et al. 2020). */
import { philoxUniform } from '../engine/ops/philox.ts';

export interface Sampling {
  /** 0 is greedy. */
  readonly temperature: number;
  /** Of the sorted probabilities the smallest set that holds this mass; 1 keeps all. */
  readonly top_p: number;
  readonly seed: number;
}

/** @param row, @param step where the draw is made: the same seed and place give the same token */
export function pickToken(logits: Float32Array, sampling: Sampling, row: number, step: number): number {
  if (sampling.temperature <= 0) return argmax(logits);
  const largest = logits[argmax(logits)]!;
  const weights = Float64Array.from(logits, (logit) => Math.exp((logit - largest) / sampling.temperature));
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  const order = Array.from(weights.keys()).sort((a, b) => weights[b]! - weights[a]! || a - b);
  let kept = 0;
  let mass = 0;
  while (kept < order.length && (kept === 0 || mass < sampling.top_p * total)) mass += weights[order[kept++]!]!;
  let draw = philoxUniform(sampling.seed, row, step) * mass;
  for (const token of order.slice(0, kept)) {
    draw -= weights[token]!;
    if (draw < 0) return token;
  }
  return order[kept - 1]!;
}

/** The first of the largest. */
export function argmax(values: Float32Array): number {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i]! > values[best]!) best = i;
  return best;
}
