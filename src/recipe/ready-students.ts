/**
 * Ready shapes of a student for a teacher like BERT, by the papers' names and sizes. TinyBERT (Jiao et al. 2020, §4.1)
 * starts its students from random weights; DistilBERT (Sanh et al. 2019, §3) takes every other layer of its teacher, for
 * twelve layers 0, 2, 4, 7, 9 and 11. All weights are trained: an adapter on random weights would learn nothing.
 */
import type { RecipeInput } from './schema.ts';

export const READY_STUDENTS = {
  'TinyBERT-4': {
    num_hidden_layers: 4,
    hidden_size: 312,
    num_attention_heads: 12,
    intermediate_size: 1200,
    init: 'scratch',
    from: 'teacher',
  },
  'TinyBERT-6': {
    num_hidden_layers: 6,
    hidden_size: 768,
    num_attention_heads: 12,
    intermediate_size: 3072,
    init: 'scratch',
    from: 'teacher',
  },
  'DistilBERT-6': { num_hidden_layers: 6, init: 'even', from: 'teacher' },
} as const satisfies Readonly<Record<string, RecipeInput['student']['compress']>>;

export type ReadyStudent = keyof typeof READY_STUDENTS;

/** The recipe with this student, cut out of its teacher. */
export function withReadyStudent(recipe: RecipeInput, name: ReadyStudent): RecipeInput {
  const { teacher } = recipe;
  if (teacher?.kind !== 'engine') throw new RangeError('a ready student is cut out of a teacher');
  const { model, revision } = teacher;
  return { ...recipe, student: { model, revision, compress: READY_STUDENTS[name] }, lora: null };
}

/** Which of them a recipe's student is. */
export function readyStudentOf({ student: { compress } }: RecipeInput): ReadyStudent | undefined {
  const text = (of: object): string => JSON.stringify(Object.entries(of).sort());
  return Object.entries(READY_STUDENTS).find(([, shape]) => compress && text(shape) === text(compress))?.[0] as
    ReadyStudent | undefined;
}
