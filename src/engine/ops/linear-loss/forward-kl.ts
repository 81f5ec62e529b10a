/**
 * Forward KL from a sparse teacher (DESIGN §5): D = Σ_S p (log p − log q), where S are the k entries the cache holds,
 * p = exp(z_t / T − log Z_t) is exact on S, and q is the student's full softmax at T.
 *
 *   bucket        all the rest is one outcome: + p_t (log p_t − log q_t), p_t = 1 − Σp, q_t = 1 − Σq, at least 1e-9
 *   ignore        the k entries as they are
 *   renormalize   p divided by its sum
 *
 * Gradient for the student's logits, with P = Σp, Q = Σq and ρ = p_t / q_t (0 without bucket):
 *   outside S: q (P − ρ Q) / T;   inside S: the same + (ρ q − p) / T
 */
export interface TeacherRow {
  readonly ids: ArrayLike<number>;
  readonly logits: ArrayLike<number>;
  readonly log_z: number;
}

/** The smallest mass of a tail: below it a tail is noise, and has no gradient. */
export const TAIL_FLOOR = 1e-9;

export const forwardKl = {
  /** @param logQ log softmax of the student at T; returns D and dD/dz */
  reference(
    logQ: Float64Array,
    teacher: TeacherRow,
    T: number,
    tail: 'bucket' | 'ignore' | 'renormalize',
  ): { value: number; gradient: Float64Array } {
    const support = Array.from(teacher.ids);
    let p = support.map((_, j) => Math.exp(teacher.logits[j]! / T - teacher.log_z));
    if (tail === 'renormalize') {
      const sum = p.reduce((a, b) => a + b, 0);
      p = p.map((value) => value / sum);
    }
    const P = p.reduce((a, b) => a + b, 0);
    const inside = new Set(support);
    const Q = support.reduce((sum, id) => sum + Math.exp(logQ[id]!), 0);
    let value = support.reduce((sum, id, j) => sum + (p[j]! > 0 ? p[j]! * (Math.log(p[j]!) - logQ[id]!) : 0), 0);
    let ratio = 0;
    if (tail === 'bucket') {
      const outside = logQ.reduce((sum, log, v) => (inside.has(v) ? sum : sum + Math.exp(log)), 0);
      const pt = Math.max(1 - P, TAIL_FLOOR);
      const qt = Math.max(outside, TAIL_FLOOR);
      value += pt * (Math.log(pt) - Math.log(qt));
      ratio = outside > TAIL_FLOOR ? pt / qt : 0;
    }
    const gradient = logQ.map((log) => (Math.exp(log) * (P - ratio * Q)) / T);
    support.forEach((id, j) => (gradient[id]! += (ratio * Math.exp(logQ[id]!) - p[j]!) / T));
    return { value, gradient };
  },

  /**
   * WGSL over the workgroup-shared sums of a row. Has: `p_sum`, `plogp` = Σ p log p, `p_logq` = Σ p log q, `q_in`, `q_out`.
   * Gives: `divergence`, `dense` (factor of q everywhere), `ratio` (ρ), `p_scale` (what p is multiplied by).
   */
  wgsl(tail: 'bucket' | 'ignore' | 'renormalize'): string {
    switch (tail) {
      case 'ignore':
        return `let divergence = plogp - p_logq;
    let ratio = 0.0;
    let p_scale = 1.0;
    let dense = p_sum;`;
      case 'renormalize':
        return `let divergence = (plogp - p_logq) / p_sum - log(p_sum);
    let ratio = 0.0;
    let p_scale = 1.0 / p_sum;
    let dense = 1.0;`;
      case 'bucket':
        return `let p_tail = max(1.0 - p_sum, ${TAIL_FLOOR});
    let q_tail = max(q_out, ${TAIL_FLOOR});
    let divergence = plogp - p_logq + p_tail * (log(p_tail) - log(q_tail));
    let ratio = select(0.0, p_tail / q_tail, q_out > ${TAIL_FLOOR});
    let p_scale = 1.0;
    let dense = p_sum - ratio * q_in;`;
    }
  },
};
