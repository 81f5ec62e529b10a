import { describe, expect, it } from 'vitest';
import type { JobEvent, RunSummary } from '../../job/protocol.ts';
import { parseRecipe } from '../../recipe/parse.ts';
import { apply, emptyView, latestScore, shareDone } from './run-view.ts';

const summary: RunSummary = {
  id: 'r1',
  name: 'r',
  created: '2026-01-01T00:00:00.000Z',
  state: 'new',
  recipe: parseRecipe({ student: { model: 'm' }, data: { source: 's' } }, 'recipe'),
  bytes: 0,
  step: 0,
  of: 0,
};
const fold = (events: readonly JobEvent[]) =>
  events.reduce((view, event) => apply(view, event, 1000), emptyView(summary));
const figure = (value: number) => ({ value, low: value - 0.1, high: value + 0.1, rows: 64 });

describe('a run as it is told', () => {
  it('follows steps, progress and facts', () => {
    const view = fold([
      { kind: 'step', step: 'data', state: 'running' },
      { kind: 'fact', step: 'data', facts: { rows: 250 } },
      { kind: 'step', step: 'data', state: 'done' },
      { kind: 'step', step: 'teacher', state: 'skipped' },
      { kind: 'step', step: 'train', state: 'running' },
      { kind: 'progress', step: 'train', done: 30, of: 120, unit: 'steps' },
    ]);
    expect(view.state).toBe('running');
    expect(view.now).toBe('train');
    expect(view.steps.data).toMatchObject({ state: 'done', facts: { rows: 250 } });
    expect([
      shareDone(view, 'data'),
      shareDone(view, 'teacher'),
      shareDone(view, 'train'),
      shareDone(view, 'export'),
    ]).toEqual([1, 1, 0.25, 0]);
  });

  it('draws a step once, though the run went back to a checkpoint and said it again', () => {
    const line = (step: number, loss: number): JobEvent => ({ kind: 'metrics', line: { step, epoch: 0, loss } });
    const view = fold([line(1, 3), line(2, 2), line(3, 1), { kind: 'resumed' }, line(2, 2.5), line(3, 1.5)]);
    expect(view.metrics.map(({ step, loss }) => [step, loss])).toEqual([
      [1, 3],
      [2, 2.5],
      [3, 1.5],
    ]);
  });

  it('keeps a training and an evaluation line of the same step', () => {
    const view = fold([
      { kind: 'metrics', line: { step: 5, epoch: 0, loss: 1 } },
      { kind: 'metrics', line: { step: 5, epoch: 0, eval_loss: 2 } },
    ]);
    expect(view.metrics).toHaveLength(2);
  });

  it('knows the newest score of each', () => {
    const view = fold([
      { kind: 'score', step: 0, who: 'teacher', task: 'exact_match', figure: figure(0.98) },
      { kind: 'score', step: 50, who: 'student', task: 'exact_match', figure: figure(0.5) },
      { kind: 'score', step: 0, who: 'student', task: 'exact_match', figure: figure(0) },
    ]);
    expect([latestScore(view, 'teacher')?.value, latestScore(view, 'student')?.value]).toEqual([0.98, 0.5]);
  });

  it('pauses with its reason, goes on without it, fails with words', () => {
    const paused = fold([{ kind: 'paused', why: 'disk-full' }]);
    expect([paused.state, paused.paused?.why]).toEqual(['paused', 'disk-full']);
    const on = apply(paused, { kind: 'resumed' }, 0);
    expect([on.state, on.paused]).toEqual(['running', undefined]);
    const failed = apply(on, { kind: 'error', input: true, message: 'rows.jsonl: line 3: …' }, 0);
    expect([failed.state, failed.error?.message]).toEqual(['failed', 'rows.jsonl: line 3: …']);
  });
});
