import { describe, expect, it } from 'vitest';
import { readAnyArchitecture } from './architectures/index.ts';
import { compress, keptLayers } from './compress.ts';
import { baseParameters, countParameters, type Model } from './model.ts';
import { parseRecipe } from '../recipe/parse.ts';
import { READY_STUDENTS, readyStudent, readyStudentOf, withReadyStudent } from './ready-students.ts';
import type { RecipeInput } from '../recipe/schema.ts';

const recipe: RecipeInput = {
  student: { model: 'other' },
  teacher: { kind: 'engine', model: 'bert-base-uncased' },
  data: { source: 'rows.jsonl' },
};

/** BERT-base with its masked-LM head, without a number of its weights. */
function bertBase(): Model<ReturnType<typeof readAnyArchitecture>> {
  const config = { model_type: 'bert' };
  const named = new Set(['bert.', 'cls.predictions.transform.dense.weight']);
  const parameters = baseParameters(readAnyArchitecture(config, 'config.json', named));
  const tensors = new Map(
    [...parameters].map(([name, shape]) => [name, { dtype: 'F32', shape: shape as number[], bytes: 0 }]),
  );
  const none = async (): Promise<never> => Promise.reject(new Error('no weights'));
  return {
    name: 'bert',
    folder: { name: 'bert', open: async () => undefined },
    config,
    options: readAnyArchitecture(config, 'config.json', new Set(tensors.keys())),
    parameters,
    weights: { name: 'bert', tensors, metadata: {}, read: none, readF32: none },
  };
}

describe('ready students', () => {
  it.each(READY_STUDENTS)('%s is a recipe that says so, cut out of its teacher', (name) => {
    const filled = parseRecipe(withReadyStudent(recipe, name, 12), 'r');
    expect(filled.student).toMatchObject({ model: 'bert-base-uncased', compress: { from: 'teacher' } });
    expect(filled.lora).toBeNull();
    expect(readyStudentOf(withReadyStudent(recipe, name, 12), 12)).toBe(name);
    expect(readyStudentOf(recipe, 12)).toBeUndefined();
  });

  // the papers say 14.5M, 67M and 66M: theirs have a pooler and no masked-LM head, ours the head and no pooler
  it.each([
    ['TinyBERT-4', 14.4e6, [0, 4, 7, 11]],
    ['TinyBERT-6', 67e6, [0, 2, 4, 7, 9, 11]],
    ['DistilBERT-6', 67e6, [0, 2, 4, 7, 9, 11]],
  ] as const)('%s of BERT-base has %d numbers', (name, count, layers) => {
    expect(keptLayers(12, readyStudent(name, 12), 'r')).toEqual(layers);
    const student = compress(bertBase(), readyStudent(name, 12), 1, 'r');
    expect(Math.abs(countParameters(student.parameters) / count - 1)).toBeLessThan(0.01);
  });
});
