/** What a recipe's figures come to in a run of a known length, by transformers' rules (trainer.py, training_args.py). */
import type { Recipe, Training } from './schema.ts';

/** What a teacher's cache must hold for a recipe: a cache's header says which it does. */
export function drawnOrLargest({ distill }: Pick<Recipe, 'distill'>): 'sampling' | 'topk' {
  return distill.tail === 'sampling' ? 'sampling' : 'topk';
}

/** Optimiser steps of an epoch; the last, shorter group of micro-batches is a step too. */
export function stepsPerEpoch(trainRows: number, training: Training): number {
  const batches = Math.ceil(trainRows / training.per_device_train_batch_size);
  return Math.max(1, Math.ceil(batches / training.gradient_accumulation_steps));
}

/** Optimiser steps of the run; max_steps overrides the epochs. trainRows counts packs where rows are packed. */
export function totalSteps(trainRows: number, training: Training): number {
  if (training.max_steps > 0) return training.max_steps;
  return Math.ceil(training.num_train_epochs * stepsPerEpoch(trainRows, training));
}

/** Steps in which the rate rises; warmup_steps below 1 and warmup_ratio are shares of the run. */
export function warmupSteps(training: Training, total: number): number {
  const { warmup_steps, warmup_ratio } = training;
  if (warmup_steps >= 1) return warmup_steps;
  return Math.ceil(total * (warmup_steps > 0 ? warmup_steps : warmup_ratio));
}

/** logging_steps, eval_steps or save_steps as a number of steps. */
export function everySteps(value: number, total: number): number {
  return value < 1 ? Math.max(1, Math.ceil(total * value)) : value;
}
