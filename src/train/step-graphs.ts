/**
 * The graphs of training, each for one batch shape [B, T]:
 *   training step   forward, objective, backward, and what becomes of the gradients: folded into their accumulators or, with
 *                   the optimiser in the backward pass, their norm taken or the weights updated, each gone when it was used
 *   evaluation      forward and objective
 *   update          global norm, clipping, the optimiser (one graph for all shapes)
 */
import { gradients } from '../engine/graph/autodiff.ts';
import { Graph } from '../engine/graph/graph.ts';
import type { TensorType, Value } from '../engine/graph/types.ts';
import { accumulate, add, linearLoss, matmul, scaleBy, sumSquares } from '../engine/ops/index.ts';
import type { LinearLossAttributes } from '../engine/ops/linear-loss/linear-loss.ts';
import type { ModelOptions } from '../models/architectures/index.ts';
import type { DecoderAdapter } from '../models/decoder.ts';
import { headGradients, languageModel } from '../models/language-model.ts';
import type { LoraSettings } from '../models/lora.ts';
import { unitsOf, update, type Optim } from './optimizers.ts';
import { decays, type Shard, type Trainable } from './flat-parameters.ts';

/** DESIGN §5: (1 − alpha) · CE + alpha · T² · D(teacher, student). */
export interface Objective {
  readonly objective: LinearLossAttributes['objective'];
  readonly temperature: number;
  readonly alpha: number;
  readonly tail: LinearLossAttributes['tail'];
  readonly beta?: number;
  readonly skew?: number;
  /** Entries a position of the teacher's cache; 0 without a teacher. */
  readonly k: number;
  readonly label_smoothing_factor: number;
}

/** The labels alone, without a teacher. */
export const CROSS_ENTROPY: Objective = {
  objective: 'none',
  temperature: 1,
  alpha: 0,
  tail: 'bucket',
  k: 0,
  label_smoothing_factor: 0,
};

export interface StepModel {
  readonly options: ModelOptions;
  readonly adapter: { readonly settings: LoraSettings; readonly trainable: boolean } | null;
  /** Names of trained base weights. */
  readonly trainable: (name: string) => boolean;
}

export interface BatchShape {
  readonly rows: number;
  readonly length: number;
}

/** Columns of `sums`: totals over the counted tokens. */
export const SUMS = ['ce', 'kl', 'entropy', 'correct'] as const;

/**
 * What a training step does with the gradients. `accumulate` is for any optimiser step. The others hold no gradient longer than
 * until it was used, for a step of one micro-batch (LOMO: Lv et al. 2023, "Full parameter fine-tuning for large language models
 * with limited resources", arXiv 2306.09782, §3; torchtune's `optimizer_in_bwd`).
 */
export type GradientUse = 'accumulate' | 'norm' | { readonly optim: Optim; readonly norm: NormUse };

/**
 * The norm of all gradients that an update clips by: none, so that each weight is updated as soon as its gradient is known;
 * `waited` for, by gradients that lie where the activations lay that the backward pass needs no more; or `given` by a step that
 * took the norm before, so that none waits.
 */
export type NormUse = 'unused' | 'waited' | 'given';

/**
 * Inputs: input_ids, position_ids, segments, token_type_ids (encoders), targets i32 [B, T]; token_scale f32 [1] (1 / counted tokens of the whole
 * optimiser step, times the loss's scale); weights f32 [B·T, 1] (1 where a token is counted); seed i32 [2] with dropout;
 * factors f32 [2] (0 for the first micro-batch of a step, else 1; 1 / the loss's scale) where gradients are accumulated, and
 * where they are not take f32 [1] (1 / the loss's scale) with fp16, hyper f32 [8] of `hyperOf` for an update; teacher_ids i32 [B, T, k], teacher_logits f32 [B, T, k],
 * teacher_log_z f32 [B, T] with a teacher, teacher_weights f32 [B, T, k] where its entries were drawn.
 * Outputs: loss f32 [1] (this micro-batch's share of the step's mean), sums f32 [1, 4].
 * With `gradient_checkpointing` the backward pass computes each layer again from its input: the same bits in less memory.
 * With `fp16` activations wait for the backward pass in 16 bits.
 * States: `gradient.{name}` of everything trained; or `norm_squared` f32 [1], before clipping, and what the optimiser keeps,
 * `{state}.{name}`. Also an output is norm_squared where the step has it to tell.
 */
export function trainingStep(
  model: StepModel,
  objective: Objective,
  shape: BatchShape,
  { gradient_checkpointing = false, fp16 = false }: { gradient_checkpointing?: boolean; fp16?: boolean } = {},
  use: GradientUse = 'accumulate',
): { graph: Graph; trainables: Trainable[] } {
  const graph = new Graph();
  const { loss } = forward(graph, model, objective, shape, true);
  const trained = graph.parameters().filter((parameter) => parameter.trainable);
  const found = gradients(
    graph,
    loss,
    graph.constant('one', [1], ONE),
    trained.map((parameter) => parameter.value),
    { recompute: gradient_checkpointing, fp16 },
  );
  const trainables = trained.map(({ name, value }) => ({ name, shape: value.type.shape, decay: decays(name) }));
  const gradientsOf = trained.flatMap(({ name, value }, i) => {
    const gradient = found.get(value);
    return gradient ? [{ name, parameter: value, gradient, unit: trainables[i]! }] : [];
  });
  if (use === 'accumulate') {
    const factors = graph.input('factors', [2]);
    for (const { name, gradient } of gradientsOf)
      accumulate(graph.state(`gradient.${name}`, gradient.type.shape), gradient, factors);
  } else {
    const take = fp16 ? graph.input('take', [1]) : undefined;
    const scaled = gradientsOf.map((one) => ({ ...one, gradient: take ? scaleBy(one.gradient, take) : one.gradient }));
    useAtOnce(graph, scaled, use);
  }
  return { graph, trainables };
}

function useAtOnce(
  graph: Graph,
  gradientsOf: readonly { parameter: Value; gradient: Value; unit: Trainable }[],
  use: Exclude<GradientUse, 'accumulate'>,
): void {
  const given = use !== 'norm' && use.norm === 'given';
  const kept = graph.state('norm_squared', [1]);
  const norm = given ? kept : gradientsOf.map(({ gradient }) => sumSquares(gradient)).reduce((a, b) => add(a, b));
  if (!given) graph.output('norm_squared', norm);
  if (use === 'norm') return void accumulate(kept, norm, graph.constant('take all', [2], Float32Array.of(0, 1)));
  const hyper = graph.input('hyper', [8]);
  for (const { parameter, gradient, unit } of gradientsOf) {
    const of = (name: string, { shape, dtype }: TensorType): Value =>
      name === 'parameter' ? parameter : graph.state(`${name}.${unit.name}`, shape, dtype);
    // without clipping an update reads no norm, and waiting for it would hold every gradient
    update(use.optim, unit, of, gradient, hyper, use.norm === 'waited' ? norm : kept, { decay: unit.decay });
  }
}

const ONE = Float32Array.of(1);
const NO_GRADIENTS = { weightGradient: false, biasGradient: false } as const;

export function evaluationStep(model: StepModel, objective: Objective, shape: BatchShape): Graph {
  const graph = new Graph();
  forward(graph, model, objective, shape, false);
  return graph;
}

/**
 * Input: hyper f32 [8], of `hyperOf`.
 * Output: norm_squared f32 [1], before clipping.
 */
export function updateStep(shards: readonly Pick<Shard, 'shape' | 'decay' | 'tensors'>[], optim: Optim): Graph {
  const graph = new Graph();
  const hyper = graph.input('hyper', [8]);
  const norm = normSquared(graph, shards);
  shards.forEach((shard, i) => {
    for (const unit of unitsOf(optim, i, shard)) {
      const of = (name: string, { shape, dtype }: TensorType): Value =>
        graph.state(`${name}.${unit.name}`, shape, dtype);
      const own = of('gradient', { shape: unit.shape, dtype: 'f32' });
      update(optim, unit, of, own, hyper, norm, { decay: shard.decay });
    }
  });
  graph.output('norm_squared', norm);
  return graph;
}

/** The norm alone, of which `updateStep` says more: what a scaled loss has to know before it updates anything. */
export function normStep(shards: readonly Pick<Shard, 'shape'>[]): Graph {
  const graph = new Graph();
  graph.output('norm_squared', normSquared(graph, shards));
  return graph;
}

function normSquared(graph: Graph, shards: readonly Pick<Shard, 'shape'>[]): Value {
  return shards.map(({ shape }, i) => sumSquares(graph.state(`gradient.${i}`, shape))).reduce((a, b) => add(a, b));
}

function forward(
  graph: Graph,
  model: StepModel,
  objective: Objective,
  { rows, length }: BatchShape,
  training: boolean,
): { loss: Value } {
  const ids = (name: string): Value => graph.input(name, [rows, length], 'i32');
  const dropout = training && model.adapter?.trainable && model.adapter.settings.lora_dropout > 0;
  const adapter: DecoderAdapter | undefined = model.adapter
    ? { ...model.adapter, dropout_seed: dropout ? graph.input('seed', [2], 'i32') : undefined }
    : undefined;
  const choices = { adapter, trainable: training ? model.trainable : () => false };
  const { head } = languageModel(graph, model.options, ids, choices);
  if (!head) throw new RangeError('a model without a head has nothing to learn from');
  const teacher =
    objective.k > 0
      ? {
          ids: graph.input('teacher_ids', [rows, length, objective.k], 'i32'),
          logits: graph.input('teacher_logits', [rows, length, objective.k]),
          log_z: graph.input('teacher_log_z', [rows, length]),
          ...(objective.tail === 'sampling' && {
            weights: graph.input('teacher_weights', [rows, length, objective.k]),
          }),
        }
      : undefined;
  const { loss, stats } = linearLoss(
    head.hidden,
    head.weight,
    ids('targets'),
    graph.input('token_scale', [1]),
    {
      objective: objective.objective,
      temperature: objective.temperature,
      alpha: objective.alpha,
      tail: objective.tail,
      beta: objective.beta,
      skew: objective.skew,
      label_smoothing: objective.label_smoothing_factor,
      softcap: head.softcap,
      hiddenGradient: training,
      ...(training ? headGradients(graph, head) : NO_GRADIENTS),
    },
    teacher,
    head.bias,
  );
  graph.output('loss', loss);
  graph.output('sums', matmul(graph.input('weights', [rows * length, 1]), stats, { transA: true }));
  return { loss };
}
