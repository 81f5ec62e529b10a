/**
 * Drawing tokens of a teacher by importance (random sampling KD: Anshumann et al. 2025, arXiv 2503.16870). The proposal is
 * the mean of the teacher's own softmaxes at the temperatures that are declared,
 *
 *   g(v) = 1 / M · Σ_T p_T(v),   p_T = softmax(z / T)
 *
 * so that with 1 alone it is p, the paper's choice, and at each declared T no token weighs more than M times its share of
 * the draws: p_T / g ≤ M (the balance heuristic of Veach & Guibas 1995). Drawn from p_1 alone, the tail of a softer p_T
 * would weigh thousands. A token drawn c times of N counts c / (N g) times, and a sum of these over the drawn tokens is
 * without bias the sum over the whole vocabulary, whatever is summed.
 */

/**
 * g of a token.
 * @param logit z(v)
 * @param log_z log Σ exp(z / T) at each of `temperatures`
 */
export function proposal(logit: number, log_z: ArrayLike<number>, temperatures: readonly number[]): number {
  let sum = 0;
  temperatures.forEach((T, t) => (sum += Math.exp(logit / T - log_z[t]!)));
  return sum / temperatures.length;
}

/** No draw falls on a token that is less likely, but by rounding; its weight would be no f32. */
const LEAST = 1e-30;

/**
 * What was drawn at a place, each token once.
 * @param ids, @param logits [N], of which equal tokens lie side by side
 * @returns of each token the index of its first draw, and how often it counts: c / (N g)
 */
export function* distinct(
  ids: ArrayLike<number>,
  logits: ArrayLike<number>,
  log_z: ArrayLike<number>,
  temperatures: readonly number[],
): Generator<readonly [at: number, weight: number], void> {
  for (let at = 0; at < ids.length;) {
    let next = at + 1;
    while (next < ids.length && ids[next] === ids[at]) next++;
    const g = proposal(logits[at]!, log_z, temperatures);
    if (g > LEAST) yield [at, (next - at) / (ids.length * g)];
    at = next;
  }
}

/**
 * For each point of the cumulative distribution the token that it falls on, in float64.
 * @param z [V]
 * @param points rising, from 0 and below 1
 * @returns ids, rising: a token once for each point on it
 */
export function draw(
  z: ArrayLike<number>,
  points: ArrayLike<number>,
  log_z: ArrayLike<number>,
  temperatures: readonly number[],
): Int32Array {
  const ids = new Int32Array(points.length);
  let id = -1;
  let last = 0;
  let reached = 0;
  for (let j = 0; j < points.length; j++) {
    // the sum of all may round to less than a point just below 1: that falls on the last token that adds to it
    while (reached <= points[j]! && id + 1 < z.length) {
      const next = reached + proposal(z[++id]!, log_z, temperatures);
      if (next > reached) last = id;
      reached = next;
    }
    ids[j] = last;
  }
  return ids;
}
