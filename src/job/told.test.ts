/** A run told again after a reload is the run as it was told live. */
import { describe, expect, it } from 'vitest';
import { parseRecipe } from '../recipe/parse.ts';
import type { JobEvent } from './protocol.ts';
import { newRun } from './run-facts.ts';
import { retold } from './told.ts';

const recipe = parseRecipe({ student: { model: 'a/b' }, data: { source: './rows.jsonl' } }, 'recipe.json');
const facts = newRun('r', recipe, 'recipe.json', new Date(0));
const figure = { value: 1, low: 0, high: 1, rows: 1 };

describe('retold', () => {
  it('keeps the last of what was said twice, in order, and all metrics', () => {
    const lines: JobEvent[] = [
      { kind: 'step', step: 'data', state: 'running' },
      { kind: 'step', step: 'data', state: 'done' },
      { kind: 'metrics', line: { step: 1, epoch: 0.1, loss: 2 } },
      { kind: 'checkpoint', step: 1, bytes: 10 },
      { kind: 'score', step: 1, who: 'student', task: 't', figure },
      // after a resumption
      { kind: 'step', step: 'data', state: 'running' },
      { kind: 'step', step: 'data', state: 'done' },
      { kind: 'metrics', line: { step: 2, epoch: 0.2, loss: 1 } },
      { kind: 'checkpoint', step: 2, bytes: 10 },
      { kind: 'score', step: 1, who: 'student', task: 't', figure: { ...figure, value: 0.5 } },
    ];
    expect(retold(facts, lines)).toEqual([lines[2], lines[6], lines[7], lines[8], lines[9]]);
  });

  it('ends with how far each step is, and how the last sitting ended', () => {
    const progress = { kind: 'progress', step: 'train', done: 3, of: 9, unit: 'steps' } as const;
    const last = { kind: 'paused', why: 'asked' } as const;
    expect(retold({ ...facts, progress: { train: progress }, last }, [])).toEqual([progress, last]);
  });
});
