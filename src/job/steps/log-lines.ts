/**
 * Log lines as transformers' Trainer and TRL's SFTTrainer write them: `loss` and the means are over the steps since the
 * last line, `grad_norm` and `learning_rate` are the last step's, `num_tokens` counts from the start. `skipped_steps`, of fp16
 * alone, counts those since the last line whose gradients overflowed.
 */
import type { EvalResult } from '../../train/evaluator.ts';
import type { StepResult } from '../../train/trainer.ts';
import type { LogState } from '../checkpoints.ts';
import type { MetricsLine } from '../protocol.ts';

const MEANS = ['loss', 'mean_token_accuracy', 'entropy', 'kl', 'ce'] as const;

export class LogLines {
  private tokens: number;
  private steps: number;
  private sums: Record<string, number>;
  private clock: { at: number; tokens: number };

  constructor(
    private readonly settings: {
      readonly steps_per_epoch: number;
      /** Steps between two lines; undefined where none are asked for. */
      readonly every: number | undefined;
      /** No teacher, no `kl`. */
      readonly teacher: boolean;
      readonly seconds: () => number;
    },
    state: LogState = { num_tokens: 0, since: { steps: 0, sums: {} } },
  ) {
    this.tokens = state.num_tokens;
    this.steps = state.since.steps;
    this.sums = { ...state.since.sums };
    this.clock = { at: settings.seconds(), tokens: this.tokens };
  }

  /** A line where one is due. */
  add(result: StepResult): MetricsLine | undefined {
    this.tokens += result.tokens;
    this.steps++;
    for (const name of MEANS) this.sums[name] = (this.sums[name] ?? 0) + result[name];
    if (result.skipped) this.sums.skipped = (this.sums.skipped ?? 0) + 1;
    const { every, teacher } = this.settings;
    if (every === undefined || result.step % every !== 0) return undefined;
    const mean = (name: (typeof MEANS)[number]): number => this.sums[name]! / this.steps;
    const now = this.settings.seconds();
    const line: MetricsLine = {
      step: result.step,
      epoch: this.epoch(result.step),
      loss: mean('loss'),
      grad_norm: result.grad_norm,
      learning_rate: result.learning_rate,
      mean_token_accuracy: mean('mean_token_accuracy'),
      entropy: mean('entropy'),
      ...(teacher && { kl: mean('kl') }),
      ce: mean('ce'),
      ...(this.sums.skipped && { skipped_steps: this.sums.skipped }),
      num_tokens: this.tokens,
      tokens_per_second: (this.tokens - this.clock.tokens) / Math.max(1e-3, now - this.clock.at),
    };
    this.steps = 0;
    this.sums = {};
    this.clock = { at: now, tokens: this.tokens };
    return line;
  }

  evaluation(step: number, result: EvalResult): MetricsLine {
    const { eval_kl, ...rest } = result;
    return { step, epoch: this.epoch(step), ...rest, ...(this.settings.teacher && { eval_kl }) };
  }

  /** For a checkpoint: lines after a resumption are those of a whole run. */
  get state(): LogState {
    return { num_tokens: this.tokens, since: { steps: this.steps, sums: { ...this.sums } } };
  }

  private epoch(step: number): number {
    return step / this.settings.steps_per_epoch;
  }
}
