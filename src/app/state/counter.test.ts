import { describe, expect, it } from 'vitest';
import type { RunSummary } from '../../job/protocol.ts';
import { parseRecipe } from '../../recipe/parse.ts';
import type { RecipeInput } from '../../recipe/schema.ts';
import { compare, counterTestOf } from './counter.ts';
import { withoutTeacher } from './recipe.svelte.ts';

const taught: RecipeInput = {
  name: 'a',
  student: { model: 'bundled:arithmetic', compress: { layers: [0, 1, 3], from: 'teacher' } },
  teacher: { kind: 'engine', model: 'bundled:arithmetic' },
  data: { source: 's' },
  distill: { alpha: 0.9, temperature: 2 },
  training: { max_steps: 300 },
};
const run = (id: string, input: RecipeInput): RunSummary => {
  const recipe = parseRecipe(input, 'recipe');
  return { id, name: recipe.name, created: '', state: 'done', recipe, bytes: 0, step: 0, of: 0 };
};

describe('the counter-test', () => {
  it('is a recipe that can be run, equal in all but teacher and objective', () => {
    const alone = parseRecipe(withoutTeacher(parseRecipe(taught, 'recipe')), 'recipe');
    const original = parseRecipe(taught, 'recipe');
    expect(alone.teacher.kind).toBe('none');
    expect([alone.distill.objective, alone.distill.alpha]).toEqual(['none', 0]);
    expect([alone.training, alone.data, alone.seed, alone.lora]).toEqual([
      original.training,
      original.data,
      original.seed,
      original.lora,
    ]);
    expect(alone.student.compress).toMatchObject({ layers: [0, 1, 3], from: 'student' });
  });
  it('is found among kept runs, and nothing else is taken for it', () => {
    const first = run('1', taught);
    const alone = run('2', withoutTeacher(first.recipe));
    const shorter = run('3', { ...withoutTeacher(first.recipe), training: { max_steps: 10 } });
    expect(counterTestOf(first, [first, shorter, alone])?.id).toBe('2');
    expect(counterTestOf(first, [first, shorter])).toBeUndefined();
  });
});

it('calls a difference one only where the intervals do not meet', () => {
  const figure = (low: number, high: number) => ({ value: (low + high) / 2, low, high, rows: 100 });
  expect(compare(figure(0.62, 0.75), figure(0.5, 0.6))).toBe('better');
  expect(compare(figure(0.55, 0.75), figure(0.5, 0.6))).toBe('same');
  expect(compare(figure(0.3, 0.4), figure(0.5, 0.6))).toBe('worse');
});
