/**
 * Ready shapes of a student for a teacher like BERT, by the papers' names and sizes. DistilBERT (Sanh et al. 2019, §3) takes
 * every other layer of its teacher, for twelve layers 0, 2, 4, 7, 9 and 11. TinyBERT (Jiao et al. 2020, §4.1) starts its
 * students from random weights, and has two long trainings to make up for it; here they start from evenly spaced layers and
 * the teacher's most important channels, which is far ahead after fifty steps (docs/design.md). All weights are trained: an
 * adapter can't mend what was cut.
 */
import type { RecipeInput } from '../recipe/schema.ts';
import { evenLayers, type Compression } from './compress.ts';
import type { EncoderOptions } from './encoder.ts';

type Compress = Compression & Pick<NonNullable<RecipeInput['student']['compress']>, 'from'>;

const TINYBERT = { num_attention_heads: 12, init: 'importance', from: 'teacher' } as const;

const READY = {
  'TinyBERT-4': { ...TINYBERT, num_hidden_layers: 4, hidden_size: 312, intermediate_size: 1200 },
  'TinyBERT-6': { ...TINYBERT, num_hidden_layers: 6, hidden_size: 768, intermediate_size: 3072 },
  'DistilBERT-6': { num_hidden_layers: 6, init: 'even', from: 'teacher' },
} as const satisfies Readonly<Record<string, Compress>>;

export type ReadyStudent = keyof typeof READY;

/** Of a teacher, as a config says it. */
export type EncoderSizes = Pick<EncoderOptions, 'num_hidden_layers' | 'hidden_size' | 'intermediate_size'>;

/** The students that can be cut out of such a teacher. */
export function readyStudentsOf(teacher: EncoderSizes): ReadyStudent[] {
  const sizes = ['num_hidden_layers', 'hidden_size', 'intermediate_size'] as const;
  return (Object.keys(READY) as ReadyStudent[]).filter((name) => {
    const shape: Compress = READY[name];
    return sizes.every((size) => (shape[size] ?? 0) <= teacher[size]);
  });
}

/**
 * What makes this student of such a teacher. TinyBERT's layers are evenly spaced, as its paper maps them (§3.2, g(m) = 3m of
 * twelve), which `init: importance` alone would not do.
 */
export function readyStudent(name: ReadyStudent, teacher: EncoderSizes): Compress {
  const shape = READY[name];
  if (shape.init === 'even') return shape;
  return { ...shape, layers: evenLayers(teacher.num_hidden_layers, shape.num_hidden_layers) };
}

/** The recipe with this student, cut out of its teacher. */
export function withReadyStudent(recipe: RecipeInput, name: ReadyStudent, sizes: EncoderSizes): RecipeInput {
  const { teacher } = recipe;
  if (teacher?.kind !== 'engine') throw new RangeError('a ready student is cut out of a teacher');
  const { model, revision } = teacher;
  return { ...recipe, student: { model, revision, compress: readyStudent(name, sizes) }, lora: null };
}

/** Which of them a recipe's student is. */
export function readyStudentOf({ student }: RecipeInput, teacher: EncoderSizes): ReadyStudent | undefined {
  const { compress } = student;
  const text = (of: object): string => JSON.stringify(Object.entries(of).sort());
  return readyStudentsOf(teacher).find((name) => compress && text(readyStudent(name, teacher)) === text(compress));
}
