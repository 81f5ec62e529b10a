/** Log lines against transformers' own of a run (run.json's kind of arithmetic), and across a resumption at any step. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { StepResult } from '../../train/trainer.ts';
import type { MetricsLine } from '../protocol.ts';
import { LogLines } from './log-lines.ts';

const result = (step: number): StepResult => ({
  step,
  loss: 1 / step,
  grad_norm: step,
  learning_rate: 1e-3 * step,
  entropy: 2 / step,
  mean_token_accuracy: step / 100,
  ce: 3 / step,
  kl: 4 / step,
  tokens: 10 * step,
});

const settings = { steps_per_epoch: 4, every: 3, teacher: true, seconds: () => 1 };

const without = ({ tokens_per_second: _rate, ...line }: MetricsLine): MetricsLine => line;

describe('log lines', () => {
  it('hold means since the last line, the last norm and rate, and tokens from the start', () => {
    const log = new LogLines(settings);
    const lines = [1, 2, 3, 4, 5, 6].map((step) => log.add(result(step)));
    expect(lines.map((line) => line?.step)).toEqual([undefined, undefined, 3, undefined, undefined, 6]);
    expect(without(lines[5]!)).toEqual({
      step: 6,
      epoch: 1.5,
      loss: expect.closeTo((1 / 4 + 1 / 5 + 1 / 6) / 3, 12),
      grad_norm: 6,
      learning_rate: 6e-3,
      mean_token_accuracy: expect.closeTo(0.05, 12),
      entropy: expect.closeTo((2 / 4 + 2 / 5 + 2 / 6) / 3, 12),
      kl: expect.closeTo((4 / 4 + 4 / 5 + 4 / 6) / 3, 12),
      ce: expect.closeTo((3 / 4 + 3 / 5 + 3 / 6) / 3, 12),
      num_tokens: 210,
    });
  });

  it('count the steps that were skipped since the last line, where any were', () => {
    const log = new LogLines(settings);
    const lines = [1, 2, 3, 4, 5, 6].map((step) => log.add({ ...result(step), ...(step < 3 && { skipped: true }) }));
    expect(lines[2]).toMatchObject({ step: 3, skipped_steps: 2 });
    expect(lines[5]).not.toHaveProperty('skipped_steps');
  });

  it('are the same to the bit where a run went on from a checkpoint', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 11 }), fc.integer({ min: 1, max: 5 }), (at, every) => {
        const whole = new LogLines({ ...settings, every });
        const expected: (MetricsLine | undefined)[] = [];
        let kept = whole.state;
        for (let step = 1; step <= 12; step++) {
          expected.push(whole.add(result(step)));
          if (step === at) kept = JSON.parse(JSON.stringify(whole.state)) as typeof kept;
        }
        const resumed = new LogLines({ ...settings, every }, kept);
        for (let step = at + 1; step <= 12; step++) {
          const line = resumed.add(result(step));
          expect(line && without(line)).toEqual(expected[step - 1] && without(expected[step - 1]!));
        }
      }),
    );
  });

  it('speak of no teacher where there is none', () => {
    const log = new LogLines({ ...settings, every: 1, teacher: false });
    expect(log.add(result(1))).not.toHaveProperty('kl');
    const evaluation = { eval_loss: 1, eval_ce: 1, eval_kl: 0, eval_entropy: 1, eval_mean_token_accuracy: 0 };
    expect(log.evaluation(1, evaluation)).not.toHaveProperty('eval_kl');
  });
});
