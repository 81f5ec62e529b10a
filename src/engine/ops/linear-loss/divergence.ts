/**
 * What a student is compared with a sparse teacher by (DESIGN §5): D = Σ f(p, q) over outcomes, where S are the entries
 * that the cache holds, p = exp(z_t / T − log Z_t) is exact on S, and q is the student's full softmax at T.
 *
 *   forward_kl   p log (p / q)
 *   reverse_kl   q log (q / p)
 *   jsd          β p log (p / m) + (1 − β) q log (q / m),  m = β p + (1 − β) q      (TRL's GKD; Agarwal et al. 2024)
 *   skew_kl      p log (p / m),  m = s p + (1 − s) q                               (Ko et al. 2024, DistiLLM)
 *
 * Outcomes by the rule for the teacher's tail:
 *
 *   bucket        S, and all the rest as one: p_t = 1 − Σp, q_t = 1 − Σq, at least 1e-9
 *   ignore        S, its p as they are (not for reverse_kl and jsd, which are about what the student does outside too)
 *   renormalize   S with p divided by its sum; outside p is 0. Reverse KL would be infinite there: it divides q as well
 *   sampling      S was drawn, and each of it counts w = c / (N g) times (linear-sample/draw.ts), which makes Σ w f an
 *                 estimate without bias of the sum over the whole vocabulary, and so of its gradient, q (w g − Σ w q g) / T;
 *                 Σ w p is not made 1, because dividing by it would bias both. Not for reverse_kl and jsd: where the
 *                 student is surer than the teacher, what is summed has no bound that the draws know of
 *
 * With g = ∂f/∂q of each outcome and G = Σ q g over all of them, the gradient for the student's logits is q (g − G) / T.
 * Everything is computed from log p and log q, and as q g rather than g, which is 1 / q where q vanishes.
 */
import { f32 } from '../wgsl.ts';

export type Divergence = 'forward_kl' | 'reverse_kl' | 'jsd' | 'skew_kl';
export type Tail = 'bucket' | 'ignore' | 'renormalize' | 'sampling';

export interface DivergenceChoice {
  readonly objective: Divergence;
  readonly tail: Tail;
  /** β of jsd, between 0 and 1. */
  readonly beta: number;
  /** s of skew_kl, from 0 and below 1. */
  readonly skew: number;
}

export interface TeacherRow {
  readonly ids: ArrayLike<number>;
  readonly logits: ArrayLike<number>;
  readonly log_z: number;
  /** Of `sampling`: how often each entry counts. */
  readonly weights?: ArrayLike<number>;
}

/** The smallest mass of a tail: below it a tail is noise, and has no gradient. */
export const TAIL_FLOOR = 1e-9;

/** A teacher's logit below this stands for no entry: rows with fewer than k are filled up with it. */
export const ABSENT = -1e29;

/** f and q ∂f/∂q. */
type Term = readonly [value: number, pull: number];

const logAdd = (a: number, b: number): number => {
  const most = Math.max(a, b);
  return most + Math.log1p(Math.exp(Math.min(a, b) - most));
};

function term({ objective, beta, skew }: DivergenceChoice, logP: number, logQ: number): Term {
  const p = Math.exp(logP);
  const q = Math.exp(logQ);
  switch (objective) {
    case 'forward_kl':
      return [p * (logP - logQ), -p];
    case 'reverse_kl':
      return [q * (logQ - logP), q * (logQ - logP + 1)];
    case 'jsd': {
      const logM = logAdd(Math.log(beta) + logP, Math.log1p(-beta) + logQ);
      return [beta * p * (logP - logM) + (1 - beta) * q * (logQ - logM), (1 - beta) * q * (logQ - logM)];
    }
    case 'skew_kl': {
      const own = Math.log1p(-skew) + logQ;
      const logM = logAdd(Math.log(skew) + logP, own);
      return [p * (logP - logM), -p * Math.exp(own - logM)];
    }
  }
}

/** ∂f/∂q of an outcome that the teacher gives no probability; 0 but for jsd. */
const outsideSlope = ({ objective, beta }: DivergenceChoice): number =>
  objective === 'jsd' ? -(1 - beta) * Math.log1p(-beta) : 0;

/**
 * In float64.
 * @param logQ log softmax of the student at T
 * @returns D, forward KL by the same rule for the tail, and dD/dz
 */
export function divergenceReference(
  choice: DivergenceChoice,
  logQ: Float64Array,
  teacher: TeacherRow,
  T: number,
): { value: number; forward: number; gradient: Float64Array } {
  const { tail, objective } = choice;
  const present = Array.from(teacher.ids, (_, j) => j).filter((j) => teacher.logits[j]! > ABSENT);
  const support = present.map((j) => teacher.ids[j]!);
  const inside = new Set(support);
  let logP = present.map((j) => teacher.logits[j]! / T - teacher.log_z);
  let logQs = support.map((id) => logQ[id]!);
  const P = logP.reduce((sum, value) => sum + Math.exp(value), 0);
  if (tail === 'renormalize') logP = logP.map((value) => value - Math.log(P));
  const outside = logQ.reduce((sum, log, v) => (inside.has(v) ? sum : sum + Math.exp(log)), 0);
  const onlySupport = tail === 'renormalize' && objective === 'reverse_kl';
  if (onlySupport) {
    const logIn = Math.log(support.reduce((sum, id) => sum + Math.exp(logQ[id]!), 0));
    logQs = logQs.map((value) => value - logIn);
  }
  const weights = present.map((j) => (tail === 'sampling' ? teacher.weights![j]! : 1));
  const terms = logP.map(
    (value, j) => term(choice, value, logQs[j]!).map((of) => weights[j]! * of) as [number, number],
  );
  let value = terms.reduce((sum, [f]) => sum + f, 0);
  let forward = logP.reduce((sum, log, j) => sum + weights[j]! * Math.exp(log) * (log - logQ[support[j]!]!), 0);
  let total = terms.reduce((sum, [, pull]) => sum + pull, 0);
  let slope = 0;
  if (tail === 'bucket') {
    const pt = Math.max(1 - P, TAIL_FLOOR);
    const qt = Math.max(outside, TAIL_FLOOR);
    const [f, pull] = term(choice, Math.log(pt), Math.log(qt));
    value += f;
    forward += pt * (Math.log(pt) - Math.log(qt));
    if (outside > TAIL_FLOOR) {
      total += pull;
      slope = pull / qt;
    }
  } else if (tail === 'renormalize') {
    slope = outsideSlope(choice);
    value += slope * outside;
    total += slope * outside;
  }
  const gradient = logQ.map((log) => (onlySupport ? 0 : (Math.exp(log) * (slope - total)) / T));
  support.forEach((id, j) => (gradient[id] = (terms[j]![1] - Math.exp(logQs[j]!) * total) / T));
  return { value, forward, gradient };
}

/** WGSL of f and q ∂f/∂q: `fn term(log_p: f32, log_q: f32) -> vec2<f32>`. */
export function termWgsl({ objective, beta, skew }: DivergenceChoice): string {
  const logAdd = (a: string, b: string): string => `let log_a = ${a};
  let log_b = ${b};
  let log_m = max(log_a, log_b) + log(1.0 + exp(max(min(log_a, log_b) - max(log_a, log_b), -100.0)));`;
  const p = 'let p = exp(max(log_p, -100.0));';
  const q = 'let q = exp(max(log_q, -100.0));';
  const body = (): string => {
    switch (objective) {
      case 'forward_kl':
        return `${p} return vec2<f32>(p * (log_p - log_q), -p);`;
      case 'reverse_kl':
        return `${q} return vec2<f32>(q * (log_q - log_p), q * (log_q - log_p + 1.0));`;
      case 'jsd':
        return `${p} ${q}
  ${logAdd(`log_p + ${f32(Math.log(beta))}`, `log_q + ${f32(Math.log1p(-beta))}`)}
  let pull = ${f32(1 - beta)} * q * (log_q - log_m);
  return vec2<f32>(${f32(beta)} * p * (log_p - log_m) + pull, pull);`;
      case 'skew_kl':
        if (skew === 0) return `${p} return vec2<f32>(p * (log_p - log_q), -p);`;
        return `${p}
  ${logAdd(`log_p + ${f32(Math.log(skew))}`, `log_q + ${f32(Math.log1p(-skew))}`)}
  return vec2<f32>(p * (log_p - log_m), -p * exp(max(log_b - log_m, -100.0)));`;
    }
  };
  return `fn term(log_p: f32, log_q: f32) -> vec2<f32> {\n  ${body()}\n}`;
}

/**
 * WGSL that adds the tail to a row's sums. Has: `p_sum`, `q_out` and the variables `divergence`, `forward`, `total` (G),
 * `slope` (g outside).
 */
export function tailWgsl(choice: DivergenceChoice): string {
  switch (choice.tail) {
    case 'ignore':
    case 'sampling':
      return '';
    case 'renormalize':
      return `slope = ${f32(outsideSlope(choice))};
    divergence += slope * q_out;
    total += slope * q_out;`;
    case 'bucket':
      return `let log_p_tail = log(max(1.0 - p_sum, ${TAIL_FLOOR}));
    let q_tail = max(q_out, ${TAIL_FLOOR});
    let of_tail = term(log_p_tail, log(q_tail));
    divergence += of_tail.x;
    forward += exp(log_p_tail) * (log_p_tail - log(q_tail));
    if (q_out > ${TAIL_FLOOR}) {
      total += of_tail.y;
      slope = of_tail.y / q_tail;
    }`;
  }
}
