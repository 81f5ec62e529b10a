import { describe, expect, it } from 'vitest';
import { readAnyArchitecture } from '../models/architectures/index.ts';
import { compress } from '../models/compress.ts';
import { baseParameters, countParameters, type Model } from '../models/model.ts';
import { parseRecipe } from './parse.ts';
import { READY_STUDENTS, readyStudentOf, withReadyStudent, type ReadyStudent } from './ready-students.ts';
import type { RecipeInput } from './schema.ts';

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
  it.each(Object.keys(READY_STUDENTS) as ReadyStudent[])(
    '%s is a recipe that says so, cut out of its teacher',
    (name) => {
      const filled = parseRecipe(withReadyStudent(recipe, name), 'r');
      expect(filled.student).toMatchObject({ model: 'bert-base-uncased', compress: { from: 'teacher' } });
      expect(filled.lora).toBeNull();
      expect(readyStudentOf(withReadyStudent(recipe, name))).toBe(name);
      expect(readyStudentOf(recipe)).toBeUndefined();
    },
  );

  // the papers say 14.5M, 67M and 66M: theirs have a pooler and no masked-LM head, ours the head and no pooler
  it.each([
    ['TinyBERT-4', 14.4e6],
    ['TinyBERT-6', 67e6],
    ['DistilBERT-6', 67e6],
  ] as const)('%s of BERT-base has %d numbers', (name, count) => {
    const student = compress(bertBase(), READY_STUDENTS[name], 1, 'r');
    expect(Math.abs(countParameters(student.parameters) / count - 1)).toBeLessThan(0.01);
  });
});
