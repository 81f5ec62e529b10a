import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { InputError } from '../formats/input-error.ts';
import { everySteps, stepsPerEpoch, totalSteps, warmupSteps } from './derived.ts';
import { recipeDocs } from './docs.ts';
import { FIELDS } from './fields.ts';
import { recipeJsonSchemaText } from './json-schema.ts';
import { migrate } from './migrations.ts';
import { checkEntries, checkTemperature, levenshtein, parseRecipe, parseRecipeText } from './parse.ts';
import type { RecipeInput } from './schema.ts';
import { recipeFromFragment, recipeToFragment } from './share.ts';

const least: RecipeInput = { student: { model: './m' }, data: { source: './rows.jsonl' } };
const taught: RecipeInput = { ...least, teacher: { kind: 'engine', model: './t' } };

/** The recipe that DESIGN §8 shows. */
const shown = {
  $schema: 'recipe.schema.json',
  name: 'smollm2-gsm8k',
  seed: 42,
  student: {
    model: 'HuggingFaceTB/SmolLM2-135M-Instruct',
    revision: 'main',
    dtype: 'f32',
    adapter: null,
    compress: null,
    add_tokens: [],
  },
  teacher: { kind: 'engine', model: './teacher' },
  data: {
    source: './rows.jsonl',
    format: 'auto',
    eval_fraction: 0.1,
    shuffle: true,
    max_length: 512,
    packing: false,
    assistant_only_loss: true,
  },
  distill: { objective: 'forward_kl', temperature: 2, alpha: 0.5, k: 32, tail: 'bucket' },
  lora: { r: 8, lora_alpha: 16, lora_dropout: 0, target_modules: ['q_proj', 'v_proj'] },
  training: {
    per_device_train_batch_size: 4,
    gradient_accumulation_steps: 2,
    learning_rate: 1e-4,
    num_train_epochs: 1,
    warmup_ratio: 0.1,
    lr_scheduler_type: 'linear',
    logging_steps: 1,
    eval_strategy: 'steps',
    eval_steps: 10,
  },
  evaluate: { tasks: [] },
  export: { onnx: ['fp32', 'fp16', 'q8'], adapter: true, safetensors: false, gguf: [] },
};

const refusal = (json: unknown): string => {
  try {
    parseRecipe(json, 'r.json');
  } catch (error) {
    expect(error).toBeInstanceOf(InputError);
    return (error as InputError).message;
  }
  throw new Error('was accepted');
};

describe('parseRecipe', () => {
  it('fills the defaults of transformers, TRL and PEFT', () => {
    const recipe = parseRecipe(least, 'r.json');
    expect(recipe.training).toMatchObject({
      per_device_train_batch_size: 8,
      learning_rate: 2e-5,
      num_train_epochs: 3,
      adam_beta2: 0.999,
      logging_steps: 10,
      eval_steps: 10,
      gradient_checkpointing: null,
      warmup_steps: 0,
    });
    expect(recipe.data).toMatchObject({ max_length: 1024, packing: false, assistant_only_loss: false });
    expect(recipe.lora).toMatchObject({ r: 8, lora_alpha: 16, target_modules: 'all-linear' });
    expect(parseRecipe({ ...least, lora: {} }, 'r.json').lora).toMatchObject({
      r: 8,
      lora_alpha: 8,
      target_modules: null,
    });
    expect(parseRecipe({ ...least, lora: null }, 'r.json').lora).toBeNull();
    expect(recipe.distill).toMatchObject({ objective: 'none', alpha: 0 });
    expect(parseRecipe(taught, 'r.json').distill).toMatchObject({
      objective: 'forward_kl',
      alpha: 0.5,
      tail: 'bucket',
      k: 32,
    });
  });

  it('says nothing of blocks where the recipe does not, so that its hash stays, and takes either size of every kind', () => {
    const { student } = least;
    expect(parseRecipe({ ...least, student: { ...student, dtype: 'nf4' } }, 'r.json').student).not.toHaveProperty(
      'block_size',
    );
    for (const dtype of ['int8', 'uint8', 'int4', 'uint4', 'nf4'])
      for (const block_size of [32, 64])
        expect(parseRecipe({ ...least, student: { ...student, dtype, block_size } }, 'r.json').student).toMatchObject({
          dtype,
          block_size,
        });
  });

  it('refuses to update in the backward pass what is summed over batches', () => {
    const training = { optimizer_in_bwd: true, gradient_accumulation_steps: 1 };
    expect(parseRecipe({ ...least, training }, 'r.json').training).toMatchObject(training);
    expect(parseRecipe(least, 'r.json').training).not.toHaveProperty('optimizer_in_bwd');
    const chosen = { optimizer_in_bwd: null, gradient_accumulation_steps: 2 };
    expect(parseRecipe({ ...least, training: chosen }, 'r.json').training).toMatchObject(chosen);
    expect(() =>
      parseRecipe({ ...least, training: { ...training, gradient_accumulation_steps: 2 } }, 'r.json'),
    ).toThrow('training.optimizer_in_bwd: is true though gradient_accumulation_steps is 2');
  });

  it('takes the recipe of the design, keeps what it says and is its own fixed point', () => {
    const recipe = parseRecipe(shown, 'r.json');
    expect(recipe).toMatchObject(shown);
    expect(parseRecipe(JSON.parse(JSON.stringify(recipe)), 'r.json')).toEqual(recipe);
    expect(Object.isFrozen(recipe.training)).toBe(true);
  });

  it.each<[string, unknown, string]>([
    [
      'a misspelt field',
      { ...least, training: { learnig_rate: 1 } },
      'r.json: training.learnig_rate: is not a field of a recipe: the nearest is learning_rate',
    ],
    [
      'a field in the wrong place',
      { ...least, learning_rate: 1 },
      'r.json: learning_rate: is not a field of a recipe: the nearest is training.learning_rate',
    ],
    [
      'another kind’s field',
      { ...least, teacher: { kind: 'engine', model: 'x', urll: 'y' } },
      'r.json: teacher.urll: is not a field of a recipe: the nearest is kind; fields here are adapter, kind, model, revision',
    ],
    [
      'a misspelt name that leaves another missing',
      { studnet: { model: 'x' }, data: { source: 'y' } },
      'r.json: studnet: is not a field of a recipe: the nearest is student',
    ],
    [
      'a missing field',
      { student: {}, data: { source: 'y' } },
      'r.json: student.model: is missing: a text that is not empty',
    ],
    [
      'a wrong type',
      { ...least, training: { learning_rate: '1e-4' } },
      'r.json: training.learning_rate: is "1e-4" (a text): a number from 0 to 100',
    ],
    [
      'out of range',
      { ...least, data: { source: 'y', eval_fraction: 1 } },
      'r.json: data.eval_fraction: is 1: a number from 0 to below 1',
    ],
    [
      'infinity',
      JSON.parse('{"student":{"model":"x"},"data":{"source":"y"},"training":{"weight_decay":1e999}}'),
      'r.json: training.weight_decay: is Infinity: a number of at least 0',
    ],
    [
      'an unknown choice',
      { ...least, distill: { objective: 'kl' } },
      'r.json: distill.objective: is "kl" (a text): one of "forward_kl", "reverse_kl", "jsd", "skew_kl", "none"',
    ],
    [
      'an unknown teacher',
      { ...least, teacher: { kind: 'gpt' } },
      'r.json: teacher.kind: is "gpt" (a text): one of "engine", "onnx", "endpoint", "cache", "none"',
    ],
    [
      'a teacher without kind',
      { ...least, teacher: { model: 'x' } },
      'r.json: teacher.kind: is missing: one of "engine", "onnx", "endpoint", "cache", "none"',
    ],
    [
      'a fractional step count',
      { ...least, training: { logging_steps: 1.5 } },
      'r.json: training.logging_steps: is 1.5: a whole number of steps, or less than 1 for a share of all steps',
    ],
    ['k of 0', { ...taught, distill: { k: 0 } }, 'r.json: distill.k: is 0: a whole number from 1 to 65536'],
    [
      'a list item',
      { ...least, export: { onnx: ['fp32', 'fp8'] } },
      'r.json: export.onnx.1: is "fp8" (a text): a list of any of "fp32", "fp16", "q8", "q4", "q4f16"',
    ],
    ['no object', [], 'r.json: is an empty list: a recipe is a JSON object with at least "student" and "data"'],
    [
      'a newer version',
      { ...least, schema_version: 9 },
      'r.json: schema_version: is 9, from a newer Stillroom: at most 1; update this one',
    ],
    [
      'alpha without a teacher',
      { ...least, distill: { alpha: 0.5 } },
      'r.json: distill.alpha: is 0.5 without a teacher: 0, or name a teacher',
    ],
    [
      'an objective without a teacher',
      { ...least, distill: { objective: 'jsd' } },
      'r.json: distill.objective: is "jsd" without a teacher: "none", or name a teacher',
    ],
    [
      'blocks of weights that lie in none',
      { ...least, student: { ...least.student, dtype: 'f16', block_size: 64 } },
      'r.json: student.block_size: is 64 though student.dtype is "f16", which has no blocks: absent, or a student.dtype of "int8", "uint8", "int4", "uint4" or "nf4"',
    ],
    [
      'blocks of weights that are not packed',
      { ...least, student: { ...least.student, block_size: 32 } },
      'r.json: student.block_size: is 32 though student.dtype is "f32", which has no blocks: absent, or a student.dtype of "int8", "uint8", "int4", "uint4" or "nf4"',
    ],
    [
      'a block of another size',
      { ...least, student: { ...least.student, dtype: 'int4', block_size: 128 } },
      'r.json: student.block_size: is 128: one of 32, 64',
    ],
    [
      'both warm-ups',
      { ...least, training: { warmup_ratio: 0.1, warmup_steps: 5 } },
      'r.json: training.warmup_ratio: is 0.1 beside warmup_steps 5: one of the two; the other 0 or absent',
    ],
    [
      'reverse KL on a tail that is left out',
      { ...taught, distill: { objective: 'reverse_kl', tail: 'ignore' } },
      'r.json: distill.tail: is "ignore", on which reverse_kl is not defined: "bucket" or "renormalize", or objective "forward_kl"',
    ],
    [
      'the best model without evaluation',
      { ...least, training: { load_best_model_at_end: true } },
      'r.json: training.load_best_model_at_end: is true though eval_strategy is "no": an eval_strategy of "steps" or "epoch"',
    ],
    [
      'the best model among unsaved ones',
      { ...least, training: { load_best_model_at_end: true, eval_strategy: 'steps', eval_steps: 7, save_steps: 10 } },
      'r.json: training.load_best_model_at_end: is true though save_steps 10 is not a multiple of eval_steps 7: save_steps that is a multiple of eval_steps',
    ],
    [
      'another temperature than 1 of a server',
      { ...least, teacher: { kind: 'endpoint', url: 'http://localhost:8000', model: 'm' } },
      'r.json: distill.temperature: is 2, and a teacher behind a server gives probabilities at 1 alone: 1, or a teacher of kind "engine"',
    ],
    [
      'a key in an address',
      { ...least, teacher: { kind: 'endpoint', url: 'http://me:secret@localhost:8000', model: 'm' } },
      'r.json: teacher.url: is "http://me:secret@localhost:8000" (a text): an address that begins with http:// or https://, without a key or a query in it',
    ],
    [
      'another secret of the environment',
      { ...least, teacher: { kind: 'endpoint', url: 'http://x', model: 'm', api_key_env: 'AWS_SECRET_ACCESS_KEY' } },
      'r.json: teacher.api_key_env: is "AWS_SECRET_ACCESS_KEY" (a text): the name of an environment variable that ends with API_KEY',
    ],
    [
      'reverse KL from draws',
      { ...taught, distill: { objective: 'reverse_kl', tail: 'sampling' } },
      'r.json: distill.tail: is "sampling", from which reverse_kl can’t be estimated: "bucket" or "renormalize", or objective "forward_kl"',
    ],
    [
      'draws from a server',
      {
        ...least,
        teacher: { kind: 'endpoint', url: 'http://localhost:8000', model: 'm' },
        distill: { temperature: 1, tail: 'sampling' },
      },
      'r.json: distill.tail: is "sampling", and a teacher behind a server gives its likeliest tokens alone: "bucket", "ignore" or "renormalize", or a teacher of kind "engine"',
    ],
  ])('refuses %s', (_, json, message) => {
    expect(refusal(json)).toBe(message);
  });

  it('names the line of a syntax error', () => {
    expect(() => parseRecipeText('{\n "student": {,\n}', 'r.json')).toThrow(/^r\.json: line 2: is not JSON/);
  });

  it('never throws anything but an InputError, whatever stands where', () => {
    const places = FIELDS.map((field) => field.place.replace(/\[\]/g, '.0'));
    fc.assert(
      fc.property(fc.constantFrom(...places), fc.jsonValue(), (place, value) => {
        const json = structuredClone(shown) as Record<string, unknown>;
        const path = place.split('.');
        let at: Record<string, unknown> = json;
        for (const key of path.slice(0, -1)) {
          if (typeof at[key] !== 'object' || at[key] === null) at[key] = {};
          at = at[key] as Record<string, unknown>;
        }
        at[path.at(-1)!] = value;
        try {
          const recipe = parseRecipe(json, 'r.json');
          expect(parseRecipe(recipe, 'r.json')).toEqual(recipe);
        } catch (error) {
          expect(error).toBeInstanceOf(InputError);
        }
      }),
      { numRuns: 1500 },
    );
  });
});

describe('checkTemperature', () => {
  it('refuses what the cache does not know, unless nothing is asked of it', () => {
    const recipe = parseRecipe(taught, 'r.json');
    expect(() => checkTemperature(recipe, [1, 2], 'r.json')).not.toThrow();
    expect(() => checkTemperature(recipe, [1], 'r.json')).toThrow(
      "r.json: distill.temperature: is 2, which the teacher's cache was not made for: one of 1, or make the cache again",
    );
    expect(() => checkTemperature(parseRecipe(least, 'r.json'), [1], 'r.json')).not.toThrow();
  });
});

describe('checkEntries', () => {
  const of = (tail: 'bucket' | 'sampling') => parseRecipe({ ...taught, distill: { tail } }, 'r.json');
  it('refuses a cache of the other kind', () => {
    expect(() => checkEntries(of('bucket'), 'topk', 'r.json')).not.toThrow();
    expect(() => checkEntries(of('sampling'), 'sampling', 'r.json')).not.toThrow();
    expect(() => checkEntries(of('sampling'), 'topk', 'r.json')).toThrow(
      'r.json: distill.tail: is "sampling", and the teacher\'s cache holds its largest logits: "bucket", "ignore" or "renormalize", or a cache made by sampling',
    );
    expect(() => checkEntries(of('bucket'), 'sampling', 'r.json')).toThrow(
      'r.json: distill.tail: is "bucket", and the teacher\'s cache was made by sampling: "sampling"',
    );
  });
});

describe('migrate', () => {
  it('runs every step from the recipe’s version on, and leaves the original alone', () => {
    const steps = [
      (r: Record<string, unknown>) => ({ ...r, a: 1 }),
      (r: Record<string, unknown>) => ({ ...r, b: r['a'] }),
    ];
    const old = { schema_version: 1, name: 'x' };
    expect(migrate(old, 'r.json', steps)).toEqual({ schema_version: 3, name: 'x', a: 1, b: 1 });
    expect(migrate({ schema_version: 2, a: 7 }, 'r.json', steps)).toEqual({ schema_version: 3, a: 7, b: 7 });
    expect(old).toEqual({ schema_version: 1, name: 'x' });
  });
});

describe('derived figures', () => {
  const training = (over: object) => parseRecipe({ ...least, training: over }, 'r.json').training;
  it('count steps as transformers does', () => {
    const t = training({ per_device_train_batch_size: 4, gradient_accumulation_steps: 2, num_train_epochs: 1 });
    expect(stepsPerEpoch(144, t)).toBe(18);
    expect(stepsPerEpoch(145, t)).toBe(19);
    expect(totalSteps(145, { ...t, num_train_epochs: 1.5 })).toBe(29);
    expect(totalSteps(145, { ...t, max_steps: 4 })).toBe(4);
    expect(warmupSteps(training({ warmup_ratio: 0.1 }), 18)).toBe(2);
    expect(warmupSteps(training({ warmup_steps: 0.1 }), 18)).toBe(2);
    expect(warmupSteps(training({ warmup_steps: 5 }), 18)).toBe(5);
    expect(everySteps(0.1, 18)).toBe(2);
    expect(everySteps(6, 18)).toBe(6);
  });
});

describe('share links', () => {
  it('carry a recipe there and back', async () => {
    const fragment = await recipeToFragment(shown as RecipeInput);
    expect(fragment).toMatch(/^recipe=[\w-]+$/);
    expect(await recipeFromFragment(`#${fragment}`)).toEqual(shown);
    expect(await recipeFromFragment('#train')).toBeUndefined();
  });

  it('are refused in words when cut, damaged or bombs', async () => {
    const fragment = await recipeToFragment(shown as RecipeInput);
    await expect(recipeFromFragment(fragment.slice(0, -9))).rejects.toThrow('link: recipe: is cut or damaged');
    await expect(recipeFromFragment('recipe=%%%')).rejects.toThrow(InputError);
    const bomb = await recipeToFragment({ ...least, name: 'x'.repeat(1e6) } as RecipeInput);
    await expect(recipeFromFragment(bomb)).rejects.toThrow('holds more than 256 KB');
  });
});

describe('what is generated from the schema', () => {
  it('is current (else: node scripts/recipe-files.mjs)', () => {
    expect(readFileSync('public/recipe.schema.json', 'utf8')).toBe(recipeJsonSchemaText());
    expect(readFileSync('docs/recipes.md', 'utf8')).toBe(recipeDocs());
  });

  it('describes every field in a sentence', () => {
    for (const field of FIELDS) expect(field.about, field.place).toMatch(/\.$/);
  });
});

describe('levenshtein', () => {
  it('counts edits', () => {
    expect(levenshtein('learnig_rate', 'learning_rate')).toBe(1);
    expect(levenshtein('', 'abc')).toBe(3);
    expect(levenshtein('kitten', 'sitting')).toBe(3);
  });
});
