/**
 * Learning rates by step, with the names and shapes of transformers' `get_scheduler` (optimization.py).
 * A schedule is a factor on `learning_rate`; step 0 is the first optimiser step.
 */
export const SCHEDULES = [
  'linear',
  'cosine',
  'cosine_with_restarts',
  'polynomial',
  'constant',
  'constant_with_warmup',
  'inverse_sqrt',
] as const;
export type ScheduleName = (typeof SCHEDULES)[number];

export interface Schedule {
  readonly lr_scheduler_type: ScheduleName;
  readonly learning_rate: number;
  readonly warmup_steps: number;
  readonly total_steps: number;
}

export function learningRate(schedule: Schedule, step: number): number {
  return schedule.learning_rate * factor(schedule, step);
}

function factor(
  { lr_scheduler_type: type, learning_rate, warmup_steps: warmup, total_steps: total }: Schedule,
  step: number,
): number {
  if (type === 'constant') return 1;
  if (step < warmup) return step / Math.max(1, warmup);
  const progress = (step - warmup) / Math.max(1, total - warmup);
  switch (type) {
    case 'constant_with_warmup':
      return 1;
    case 'linear':
      return Math.max(0, (total - step) / Math.max(1, total - warmup));
    case 'cosine':
      return Math.max(0, 0.5 * (1 + Math.cos(Math.PI * progress)));
    case 'cosine_with_restarts':
      // one cycle, as transformers' default num_cycles
      return progress >= 1 ? 0 : Math.max(0, 0.5 * (1 + Math.cos(Math.PI * (progress % 1))));
    case 'polynomial': {
      const end = 1e-7; // transformers' lr_end, power 1
      if (step > total) return end / learning_rate;
      return ((learning_rate - end) * (1 - progress) + end) / learning_rate;
    }
    case 'inverse_sqrt': {
      const timescale = warmup || 10_000;
      return 1 / Math.sqrt((step + timescale - warmup) / timescale);
    }
  }
}
