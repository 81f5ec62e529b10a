/**
 * The head of a language model and its objective in one: hidden states and the output embedding go in, a loss comes out,
 * and the gradient is made in the forward pass, chunk by chunk, so that [tokens × vocabulary] never exists
 * (the idea of Liger's fused linear cross entropy; Hsu et al. 2024, arXiv 2410.10989, §3.2).
 *
 *   z = hidden Wᵀ (+ b), or cap · tanh(that / cap) with a `softcap`;  loss = token_scale · Σ_counted ((1 − alpha) · CE(target, z) + alpha · T² · D(teacher, z))
 *
 * CE with label smoothing as transformers' LabelSmoother: (1 − ε) · nll + ε · mean over the vocabulary of −log q.
 * D is given by `objective` (divergence.ts). A target of −100 does not count.
 */
import { bytesOf, sizeOf, type OpDefinition, type Value } from '../../graph/types.ts';
import { scaleBy } from '../scale/scale.ts';
import {
  divergenceReference,
  type Divergence,
  type DivergenceChoice,
  type Tail,
  type TeacherRow,
} from './divergence.ts';
import { linearLossKernel } from './kernel.ts';

export type LinearLossAttributes = {
  readonly objective: 'none' | Divergence;
  readonly temperature: number;
  readonly alpha: number;
  readonly tail: Tail;
  /** β of jsd; 0.5 where left out, as in TRL's GKD. */
  readonly beta?: number;
  /** s of skew_kl; 0.1 where left out. */
  readonly skew?: number;
  readonly label_smoothing: number;
  /** Whether the gradients are made: evaluation needs none, a frozen head no weight gradient. */
  readonly hiddenGradient: boolean;
  readonly weightGradient: boolean;
  /** Whether the last input is a bias over the vocabulary (masked-LM heads), and whether its gradient is made. */
  readonly bias?: boolean;
  readonly biasGradient?: boolean;
  /** Bounds the logits, as Gemma 2's `final_logit_softcapping`. */
  readonly softcap?: number;
};

/** undefined without a teacher. @throws where reverse_kl or jsd is asked for on entries alone, or on drawn ones */
export function divergenceOf(attributes: LinearLossAttributes): DivergenceChoice | undefined {
  const { objective, tail, beta = 0.5, skew = 0.1 } = attributes;
  if (objective === 'none') return undefined;
  if ((tail === 'ignore' || tail === 'sampling') && (objective === 'reverse_kl' || objective === 'jsd')) {
    throw new RangeError(`linear-loss: ${objective} is not defined on '${tail}'`);
  }
  if (!(beta > 0 && beta < 1 && skew >= 0 && skew < 1)) throw new RangeError(`linear-loss: beta ${beta}, skew ${skew}`);
  return { objective, tail, beta, skew };
}

export interface TeacherLogits {
  /** i32 [B, T, k], no id twice in a row */
  readonly ids: Value;
  /** f32 [B, T, k] */
  readonly logits: Value;
  /** f32 [B, T]: log Σ exp(z / temperature) over the teacher's whole vocabulary */
  readonly log_z: Value;
  /** f32 [B, T, k], of entries that were drawn (`tail: 'sampling'`): how often each counts */
  readonly weights?: Value;
}

/** Columns of `stats`. */
export const STATS = 4;

export const linearLossOp: OpDefinition<LinearLossAttributes> = {
  name: 'linear-loss',
  packed: [1],

  infer([hidden, weight, targets, , ids, ...rest], attributes) {
    const { hiddenGradient, weightGradient, biasGradient, bias, objective, tail } = attributes;
    divergenceOf(attributes);
    if (hidden!.shape.at(-1) !== weight!.shape[1]) {
      throw new RangeError(`linear-loss: hidden [${hidden!.shape}], weight [${weight!.shape}]`);
    }
    if (objective !== 'none' && !ids) throw new RangeError(`linear-loss: '${objective}' needs a teacher`);
    if (objective !== 'none' && (rest.length - Number(bias ?? false) === 3) !== (tail === 'sampling')) {
      throw new RangeError("linear-loss: weights of the entries belong to 'sampling', and to nothing else");
    }
    return [
      { shape: [1], dtype: 'f32' },
      { shape: [sizeOf(targets!.shape), STATS], dtype: 'f32' },
      ...(hiddenGradient ? [hidden!] : []),
      ...(weightGradient ? [weight!] : []),
      ...(biasGradient ? [{ shape: [weight!.shape[0]!], dtype: 'f32' } as const] : []),
    ];
  },

  cost([hidden, weight], _outputs, { hiddenGradient, weightGradient }) {
    const rows = sizeOf(hidden!.shape.slice(0, -1));
    const products = 1 + Number(hiddenGradient) + Number(weightGradient);
    const chunks = Math.ceil(rows / 128);
    return {
      flops: products * 2 * rows * sizeOf(weight!.shape),
      bytes: products * (bytesOf(hidden!) + chunks * bytesOf(weight!)),
    };
  },

  gradient(node, [g], needed) {
    const { hiddenGradient, weightGradient, bias, biasGradient } = node.attributes as unknown as LinearLossAttributes;
    const biasAt = bias ? node.inputs.length - 1 : -1;
    if ((needed[0] && !hiddenGradient) || (needed[1] && !weightGradient) || (needed[biasAt] && !biasGradient)) {
      throw new RangeError('linear-loss: a gradient is needed that was not asked for');
    }
    const upstream = (value: Value): Value => (g!.graph.constantOf(g!)?.[0] === 1 ? value : scaleBy(value, g!));
    const found = new Array<Value | undefined>(node.inputs.length).fill(undefined);
    if (needed[0]) found[0] = upstream(node.outputs[2]!);
    if (needed[1]) found[1] = upstream(node.outputs[hiddenGradient ? 3 : 2]!);
    if (needed[biasAt]) found[biasAt] = upstream(node.outputs.at(-1)!);
    return found;
  },

  reference(inputs, attributes, outputs) {
    const bias = attributes.bias ? inputs.at(-1) : undefined;
    const without = attributes.bias ? inputs.slice(0, -1) : inputs;
    const [hidden, weight, targets, tokenScale, ids, logits, logZ, weights] = without;
    const [V, H] = weight!.shape as [number, number];
    const rows = targets!.data.length;
    const k = ids ? ids.data.length / rows : 0;
    const { temperature: T, alpha, label_smoothing: smoothing, softcap } = attributes;
    const choice = divergenceOf(attributes);
    const scale = tokenScale!.data[0]!;
    const stats = new Float64Array(rows * STATS);
    const hiddenGradient = new Float64Array(rows * H);
    const weightGradient = new Float64Array(V * H);
    const biasGradient = new Float64Array(V);
    let loss = 0;
    for (let row = 0; row < rows; row++) {
      const x = hidden!.data.subarray(row * H, (row + 1) * H);
      const z = bias ? bias.data.slice() : new Float64Array(V);
      for (let v = 0; v < V; v++) for (let h = 0; h < H; h++) z[v]! += weight!.data[v * H + h]! * x[h]!;
      if (softcap !== undefined) z.forEach((value, v) => (z[v] = softcap * Math.tanh(value / softcap)));
      const target = targets!.data[row]!;
      const logQ = logSoftmax(z, 1);
      stats[row * STATS + 2] = -logQ.reduce((sum, value) => sum + Math.exp(value) * value, 0);
      if (target === -100) continue;
      const smooth = -logQ.reduce((sum, value) => sum + value, 0) / V;
      const dz = logQ.map(
        (value, v) => (1 - alpha) * (Math.exp(value) - (v === target ? 1 - smoothing : 0) - smoothing / V),
      );
      let divergence = 0;
      if (choice) {
        const teacher: TeacherRow = {
          ids: ids!.data.subarray(row * k, (row + 1) * k),
          logits: logits!.data.subarray(row * k, (row + 1) * k),
          log_z: logZ!.data[row]!,
          weights: weights?.data.subarray(row * k, (row + 1) * k),
        };
        const { value, forward, gradient } = divergenceReference(choice, logSoftmax(z, T), teacher, T);
        divergence = value;
        stats[row * STATS + 1] = forward;
        gradient.forEach((value, v) => (dz[v]! += alpha * T * T * value));
      }
      if (softcap !== undefined) z.forEach((value, v) => (dz[v]! *= 1 - (value / softcap) ** 2));
      const ce = -logQ[target]!;
      stats[row * STATS] = ce;
      stats[row * STATS + 3] = z.indexOf(z.reduce((a, b) => Math.max(a, b))) === target ? 1 : 0;
      loss += scale * ((1 - alpha) * ((1 - smoothing) * ce + smoothing * smooth) + alpha * T * T * divergence);
      for (let v = 0; v < V; v++) {
        biasGradient[v]! += scale * dz[v]!;
        for (let h = 0; h < H; h++) {
          hiddenGradient[row * H + h]! += scale * dz[v]! * weight!.data[v * H + h]!;
          weightGradient[v * H + h]! += scale * dz[v]! * x[h]!;
        }
      }
    }
    const all = [Float64Array.of(loss), stats];
    if (attributes.hiddenGradient) all.push(hiddenGradient);
    if (attributes.weightGradient) all.push(weightGradient);
    if (attributes.biasGradient) all.push(biasGradient);
    return outputs.map((type, i) => ({ shape: type.shape as number[], data: all[i]! }));
  },

  kernel: linearLossKernel,
};

function logSoftmax(z: Float64Array, temperature: number): Float64Array {
  const largest = z.reduce((a, b) => Math.max(a, b));
  const sum = z.reduce((total, value) => total + Math.exp((value - largest) / temperature), 0);
  return z.map((value) => (value - largest) / temperature - Math.log(sum));
}

/**
 * @param hidden f32 [B, T, H]
 * @param weight f32 [V, H]
 * @param targets i32 [B, T], already shifted
 * @param bias f32 [V], added to the logits; its gradient is made where `biasGradient` says so
 * @param tokenScale f32 [1]: 1 / counted tokens of the optimiser step
 * @returns loss f32 [1]; stats f32 [B·T, 4]: ce and forward KL (0 where not counted; by the same rule for
 * the tail, whatever the objective, so that runs can be compared), entropy of softmax(z), 1 where the largest logit is the target
 */
export function linearLoss(
  hidden: Value,
  weight: Value,
  targets: Value,
  tokenScale: Value,
  attributes: LinearLossAttributes,
  teacher?: TeacherLogits,
  bias?: Value,
): { loss: Value; stats: Value } {
  const inputs = [
    hidden,
    weight,
    targets,
    tokenScale,
    ...(teacher ? [teacher.ids, teacher.logits, teacher.log_z] : []),
    ...(teacher?.weights ? [teacher.weights] : []),
    ...(bias ? [bias] : []),
  ];
  const all = bias ? { ...attributes, bias: true } : attributes;
  const [loss, stats] = hidden.graph.apply(linearLossOp as unknown as OpDefinition, inputs, all);
  return { loss: loss!, stats: stats! };
}
