import { describe, expect, it } from 'vitest';
import { readAnyArchitecture } from './architectures/index.ts';
import { compress, keptLayers } from './compress.ts';
import { baseParameters, countParameters, type Model } from './model.ts';
import { parseRecipe } from '../recipe/parse.ts';
import { readyStudent, readyStudentOf, readyStudentsOf, withReadyStudent } from './ready-students.ts';
import type { RecipeInput } from '../recipe/schema.ts';

const BASE = { num_hidden_layers: 12, hidden_size: 768, intermediate_size: 3072 };

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
  it.each(readyStudentsOf(BASE))('%s is a recipe that says so, cut out of its teacher', (name) => {
    const filled = parseRecipe(withReadyStudent(recipe, name, BASE), 'r');
    expect(filled.student).toMatchObject({ model: 'bert-base-uncased', compress: { from: 'teacher' } });
    expect(filled.lora).toBeNull();
    expect(readyStudentOf(withReadyStudent(recipe, name, BASE), BASE)).toBe(name);
    expect(readyStudentOf(recipe, BASE)).toBeUndefined();
  });

  it('are offered of a teacher that is large enough', () => {
    expect(readyStudentsOf(BASE)).toEqual(['TinyBERT-4', 'TinyBERT-6', 'DistilBERT-6']);
    // all-MiniLM-L6-v2
    const minilm = { num_hidden_layers: 6, hidden_size: 384, intermediate_size: 1536 };
    expect(readyStudentsOf(minilm)).toEqual(['TinyBERT-4', 'DistilBERT-6']);
    expect(readyStudent('TinyBERT-4', minilm).layers).toEqual([0, 2, 3, 5]);
    expect(readyStudentsOf({ ...BASE, num_hidden_layers: 2 })).toEqual([]);
  });

  // the papers say 14.5M, 67M and 66M: theirs have a pooler and no masked-LM head, ours the head and no pooler
  it.each([
    ['TinyBERT-4', 14.4e6, [0, 4, 7, 11]],
    ['TinyBERT-6', 67e6, [0, 2, 4, 7, 9, 11]],
    ['DistilBERT-6', 67e6, [0, 2, 4, 7, 9, 11]],
  ] as const)('%s of BERT-base has %d numbers', (name, count, layers) => {
    expect(keptLayers(12, readyStudent(name, BASE), 'r')).toEqual(layers);
    const student = compress(bertBase(), readyStudent(name, BASE), 1, 'r');
    expect(Math.abs(countParameters(student.parameters) / count - 1)).toBeLessThan(0.01);
  });
});
