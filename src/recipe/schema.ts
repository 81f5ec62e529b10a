/**
 * The recipe: one JSON document that names every choice of a distillation. This file is the only source for its types,
 * validation, JSON Schema (json-schema.ts), forms (fields.ts) and documentation (docs/recipes.md).
 *
 * Names, meanings and defaults are those of transformers' TrainingArguments, TRL's SFTConfig and PEFT's LoraConfig
 * wherever they have the field. The default of `lora` itself (r 8, lora_alpha 16, all linear layers) is Stillroom's own;
 * inside a `lora` that is given, an absent field has PEFT's default.
 *
 * Every field carries one plain sentence: what it does, with its unit.
 */
import * as v from 'valibot';
import { LORA_WHEN_ABSENT } from './lora-when-absent.ts';

interface Limits {
  readonly min?: number;
  readonly max?: number;
  /** Greater than, the bound itself not included. */
  readonly above?: number;
  /** Less than, the bound itself not included. */
  readonly below?: number;
}

/** Bounds keep 1e999 (Infinity in JSON) out of every number. */
function limited({ min, max, above, below }: Limits) {
  const actions: v.PipeItem<number, number, v.BaseIssue<number>>[] = [];
  if (min !== undefined) actions.push(v.minValue(min));
  if (above !== undefined) actions.push(v.gtValue(above));
  if (below !== undefined) actions.push(v.ltValue(below));
  else actions.push(v.maxValue(max ?? Number.MAX_SAFE_INTEGER));
  return v.pipe(v.number(), ...actions);
}

const number = (about: string, limits: Limits) => v.pipe(limited(limits), v.description(about));
const integer = (about: string, limits: Limits) => v.pipe(limited(limits), v.integer(), v.description(about));
const text = (about: string) => v.pipe(v.string(), v.minLength(1), v.description(about));
const flag = (about: string) => v.pipe(v.boolean(), v.description(about));
const oneOf = <const T extends readonly string[] | readonly number[]>(about: string, options: T) =>
  v.pipe(v.picklist(options), v.description(about));
const listOf = <T extends v.GenericSchema>(about: string, item: T) => v.pipe(v.array(item), v.description(about));

const ADDRESS = /^https?:\/\/[^\s/?#@]+(\/[^\s?#@]*)?$/;
/** So that no recipe of a stranger gets at another secret of the environment. */
const KEY_NAME = /^([A-Z0-9]+_)*API_KEY$/;

/** What a stepCount allows, in words; fields.ts repeats it in errors and docs. */
export const STEP_COUNT = 'a whole number of steps, or less than 1 for a share of all steps';

/** What a text of this form is called, in errors and docs. */
export const FORMS: ReadonlyMap<RegExp, string> = new Map([
  [ADDRESS, 'an address that begins with http:// or https://, without a key or a query in it'],
  [KEY_NAME, 'the name of an environment variable that ends with API_KEY'],
]);

/** A whole number of steps, or below 1 that share of the run's steps, as transformers reads it. */
const stepCount = (about: string, limits: Limits = { above: 0 }) =>
  v.pipe(
    limited(limits),
    v.check((value) => value < 1 || Number.isInteger(value), STEP_COUNT),
    v.description(about),
  );

export const student = v.strictObject({
  model: text('The model to train: a hub name, a path relative to the recipe, bundled:NAME, or a URL.'),
  revision: v.optional(text('Branch, tag or commit of the model on the hub.'), 'main'),
  dtype: v.optional(
    oneOf(
      'How the frozen weights are held while training, uint8 and uint4 with a zero point for each block; what is trained is always held in f32.',
      ['f32', 'f16', 'int8', 'uint8', 'int4', 'uint4', 'nf4'],
    ),
    'f32',
  ),
  block_size: v.optional(
    oneOf(
      'How many frozen weights share a scale in blocks: fewer are more exact, more take fewer bytes. Absent: 64 for uint8 and nf4, 32 for int8, int4 and uint4.',
      [32, 64],
    ),
  ),
  adapter: v.optional(v.nullable(text('A PEFT adapter folder to go on from; null starts a new one.')), null),
  compress: v.optional(
    v.nullable(
      v.pipe(
        v.strictObject({
          num_hidden_layers: v.optional(integer('How many layers the student keeps; `init` says which.', { min: 1 })),
          layers: v.optional(
            v.pipe(
              v.array(v.pipe(v.number(), v.integer(), v.minValue(0))),
              v.minLength(1),
              v.description('Exactly which layers to keep, by number from 0, in order; instead of num_hidden_layers.'),
            ),
          ),
          hidden_size: v.optional(integer('Width of the hidden states after the cut.', { min: 1 })),
          intermediate_size: v.optional(integer('Width of the MLP after the cut.', { min: 1 })),
          num_attention_heads: v.optional(integer('Attention heads after the cut.', { min: 1 })),
          num_key_value_heads: v.optional(integer('Key and value heads after the cut.', { min: 1 })),
          vocabulary: v.optional(
            oneOf(
              'Which tokens the student keeps: all, or of the tokenizer those that the rows use, special ones, and what any text can be written with.',
              ['all', 'data'],
            ),
            'all',
          ),
          init: v.optional(
            oneOf(
              'What the smaller student starts from: the first, evenly spaced, last or most important layers and channels, or random weights.',
              ['first', 'even', 'last', 'importance', 'scratch'],
            ),
            'even',
          ),
          from: v.optional(
            oneOf('Whose weights are cut: those of student.model or those of the teacher.', ['student', 'teacher']),
            'student',
          ),
        }),
        v.description('How the student is made smaller before training; null keeps it as it is.'),
      ),
    ),
    null,
  ),
  add_tokens: v.optional(
    listOf(
      'Tokens to add to the vocabulary as single, special tokens, such as <think>.',
      v.pipe(v.string(), v.minLength(1)),
    ),
    [],
  ),
});

const teacherModel = text(
  'The teacher: a hub name, a path relative to the recipe, bundled:NAME, or a URL; behind a server its name there.',
);
const teacherRevision = text('Branch, tag or commit of the teacher on the hub.');

export const teacher = v.variant('kind', [
  v.strictObject({
    kind: v.pipe(v.literal('engine'), v.description('The teacher runs in Stillroom’s own engine, once, into a cache.')),
    model: teacherModel,
    revision: v.optional(teacherRevision, 'main'),
    adapter: v.optional(v.nullable(text('A PEFT adapter folder that belongs to the teacher.')), null),
  }),
  v.strictObject({
    kind: v.pipe(v.literal('onnx'), v.description('The teacher is an ONNX file, run by ONNX Runtime.')),
    model: teacherModel,
    revision: v.optional(teacherRevision, 'main'),
    dtype: v.optional(
      oneOf('Which of the folder’s ONNX files is taken.', ['fp32', 'fp16', 'q8', 'q4', 'q4f16']),
      'fp32',
    ),
  }),
  v.strictObject({
    kind: v.pipe(
      v.literal('endpoint'),
      v.description(
        'The teacher answers over HTTP: log probabilities at temperature 1 from vLLM, SGLang or llama.cpp.',
      ),
    ),
    url: v.pipe(
      v.string(),
      v.regex(ADDRESS),
      v.description(
        'Address of the server, with its port; keys are asked for in the page and never stand in a recipe.',
      ),
    ),
    model: teacherModel,
    api_key_env: v.optional(
      v.pipe(
        v.string(),
        v.regex(KEY_NAME),
        v.description('Where the command line finds the server’s key; the page asks for it.'),
      ),
      'OPENAI_API_KEY',
    ),
    num_concurrent: v.optional(integer('Requests under way at a time.', { min: 1, max: 256 }), 4),
  }),
  v.strictObject({
    kind: v.pipe(v.literal('cache'), v.description('The teacher’s logits were cached before.')),
    source: text('A logit cache file: a path relative to the recipe, or a URL.'),
  }),
  v.strictObject({
    kind: v.pipe(v.literal('none'), v.description('No teacher: the student learns from the text alone.')),
  }),
]);

export const data = v.strictObject({
  source: text('The rows: a hub name, a path relative to the recipe, bundled:NAME, or a URL.'),
  format: v.optional(
    oneOf('The shape of the rows; auto looks at the first rows and says what it saw.', [
      'auto',
      'messages',
      'prompt_completion',
      'question_answer',
      'alpaca',
      'sharegpt',
      'text',
    ]),
    'auto',
  ),
  eval_fraction: v.optional(
    number('Share of the rows kept for evaluation; f trains on the first floor(n·(1−f)) rows.', { min: 0, below: 1 }),
    0.1,
  ),
  shuffle: v.optional(
    flag(
      'Shuffle the rows before the split and again every epoch, by the seed; false keeps the file’s order throughout.',
    ),
    true,
  ),
  max_length: v.optional(
    integer('Longest row in tokens; longer rows are cut at the end, and counted.', { min: 2 }),
    1024,
  ),
  packing: v.optional(
    flag('Put several rows into one sequence of max_length (TRL’s best-fit decreasing); rows do not see each other.'),
    false,
  ),
  assistant_only_loss: v.optional(flag('Learn only what the assistant says, not the prompts.'), false),
  completion_only_loss: v.optional(
    v.nullable(flag('Learn only the completion of prompt/completion rows; null does so where rows have that shape.')),
    null,
  ),
  mlm_probability: v.optional(
    number(
      'Of an encoder (BERT): the share of tokens that are masked and guessed; of those 80% become the mask, 10% another token, 10% stay. Drawn once for each row.',
      { above: 0, max: 1 },
    ),
    0.15,
  ),
});

export const distill = v.strictObject({
  objective: v.optional(
    oneOf(
      'How the student is compared with the teacher; none trains on the text alone. Without a teacher none, else forward_kl.',
      ['forward_kl', 'reverse_kl', 'jsd', 'skew_kl', 'none'],
    ),
  ),
  temperature: v.optional(
    number('Softens both distributions before they are compared; the term is scaled by its square.', {
      above: 0,
      max: 100,
    }),
    2,
  ),
  alpha: v.optional(
    number('Weight of the teacher’s term; 1 − alpha weighs the text. Without a teacher 0, else 0.5.', {
      min: 0,
      max: 1,
    }),
  ),
  k: v.optional(
    integer(
      'How many of the teacher’s largest logits are cached for a position, or with tail sampling, how many tokens are drawn.',
      { min: 1, max: 65536 },
    ),
    32,
  ),
  tail: v.optional(
    oneOf(
      'What becomes of the probability outside the k cached logits: one extra outcome, left out, or spread over the k. With sampling the cache holds k tokens drawn from all instead: noisier, the more so the higher the temperature, and without bias.',
      ['bucket', 'ignore', 'renormalize', 'sampling'],
    ),
    'bucket',
  ),
  beta: v.optional(number('Mixture weight of jsd, as in TRL’s GKD.', { above: 0, below: 1 }), 0.5),
  answers: v.optional(
    v.nullable(
      v.pipe(
        v.strictObject({
          num_return_sequences: v.optional(integer('Answers asked for to each question.', { min: 1, max: 64 }), 1),
          max_new_tokens: v.optional(
            integer('Longest answer in tokens; what is cut off there is not learnt.', { min: 1 }),
            1024,
          ),
          temperature: v.optional(
            number('Temperature at which answers are drawn; 0 takes the likeliest word.', { min: 0, max: 2 }),
            0.7,
          ),
          top_p: v.optional(
            number('Only the likeliest words that together have this probability.', { above: 0, max: 1 }),
            1,
          ),
          stop: v.optional(listOf('Texts at which an answer ends.', v.pipe(v.string(), v.minLength(1))), []),
          verify: v.optional(
            oneOf('Which answers are learnt: all, or those whose final answer is that of the row.', [
              'none',
              'exact_match',
            ]),
            'none',
          ),
          reasoning: v.optional(
            flag('Learn what the teacher thinks before it answers, between <think> and </think>.'),
            true,
          ),
        }),
        v.description('The teacher writes the answers that the student learns; null keeps those of the rows.'),
      ),
    ),
    null,
  ),
  skew: v.optional(number('Share of the teacher mixed into the student by skew_kl.', { min: 0, below: 1 }), 0.1),
});

export const lora = v.strictObject({
  r: v.optional(integer('Rank of the adapter.', { min: 1, max: 4096 }), 8),
  lora_alpha: v.optional(number('The adapter is scaled by lora_alpha / r.', { above: 0 }), 8),
  lora_dropout: v.optional(number('Share of the adapter’s inputs dropped in training.', { min: 0, below: 1 }), 0),
  target_modules: v.optional(
    v.nullable(
      v.pipe(
        v.union([v.literal('all-linear'), v.pipe(v.array(v.pipe(v.string(), v.minLength(1))), v.minLength(1))]),
        v.description(
          'Names of the linear layers that get an adapter, or "all-linear" for all but the head; null takes PEFT’s choice for the architecture.',
        ),
      ),
    ),
    null,
  ),
  modules_to_save: v.optional(
    v.nullable(listOf('Modules trained whole and saved with the adapter.', v.pipe(v.string(), v.minLength(1)))),
    null,
  ),
  use_rslora: v.optional(flag('Scale by lora_alpha / √r instead of lora_alpha / r.'), false),
  use_dora: v.optional(flag('Learn each weight’s magnitude apart from its direction (DoRA).'), false),
  bias: v.optional(oneOf('Which biases are trained as well.', ['none', 'all', 'lora_only']), 'none'),
  init_lora_weights: v.optional(
    v.pipe(
      v.union([v.boolean(), v.literal('gaussian')]),
      v.description(
        'true starts with B = 0 (no change), "gaussian" draws A from a normal distribution, false makes B random too.',
      ),
    ),
    true,
  ),
});

export const training = v.strictObject({
  per_device_train_batch_size: v.optional(integer('Rows in one forward and backward pass.', { min: 1 }), 8),
  per_device_eval_batch_size: v.optional(integer('Rows in one evaluation pass.', { min: 1 }), 8),
  gradient_accumulation_steps: v.optional(integer('Passes whose gradients make one optimiser step.', { min: 1 }), 1),
  num_train_epochs: v.optional(
    number('How many times the training rows are seen; max_steps overrides it.', { above: 0 }),
    3,
  ),
  max_steps: v.optional(
    v.pipe(
      v.number(),
      v.integer(),
      v.minValue(-1),
      v.maxValue(Number.MAX_SAFE_INTEGER),
      v.notValue(0),
      v.description(
        'Stop after so many optimiser steps, however many epochs that is; -1 leaves it to num_train_epochs.',
      ),
    ),
    -1,
  ),
  learning_rate: v.optional(number('The highest learning rate.', { min: 0, max: 100 }), 2e-5),
  weight_decay: v.optional(number('AdamW’s decoupled weight decay; biases and norms have none.', { min: 0 }), 0),
  adam_beta1: v.optional(number('Decay of AdamW’s first moment.', { min: 0, below: 1 }), 0.9),
  adam_beta2: v.optional(number('Decay of AdamW’s second moment.', { min: 0, below: 1 }), 0.999),
  adam_epsilon: v.optional(number('Keeps AdamW’s division away from zero.', { above: 0 }), 1e-8),
  max_grad_norm: v.optional(number('Gradients are scaled down to this global norm; 0 never clips.', { min: 0 }), 1),
  lr_scheduler_type: v.optional(
    oneOf('How the learning rate moves after the warm-up.', ['linear', 'cosine', 'constant', 'constant_with_warmup']),
    'linear',
  ),
  warmup_ratio: v.optional(number('Share of all steps in which the rate rises from 0.', { min: 0, max: 1 }), 0),
  warmup_steps: v.optional(
    stepCount('Steps in which the rate rises from 0; below 1 a share of all steps. Instead of warmup_ratio.', {
      min: 0,
    }),
    0,
  ),
  optim: v.optional(
    oneOf('The optimiser; adafactor and adamw_8bit keep less beside each weight; sgd_momentum takes adam_beta1.', [
      'adamw_torch',
      'adamw_torch_fused',
      'sgd',
      'sgd_momentum',
      'lion_32bit',
      'adafactor',
      'adamw_8bit',
      'adamw_bnb_8bit',
    ]),
    'adamw_torch',
  ),
  fp16: v.optional(
    flag(
      'Hold activations in 16 bits until the backward pass reads them, with dynamic loss scaling: about half their memory, for gradients a little less exact.',
    ),
    false,
  ),
  logging_strategy: v.optional(oneOf('When a line of figures is logged.', ['no', 'steps', 'epoch']), 'steps'),
  logging_steps: v.optional(stepCount('Steps between two log lines.'), 10),
  eval_strategy: v.optional(
    oneOf('When the evaluation rows are measured during training.', ['no', 'steps', 'epoch']),
    'no',
  ),
  eval_steps: v.optional(v.nullable(stepCount('Steps between two evaluations; null takes logging_steps.')), null),
  save_strategy: v.optional(oneOf('When a checkpoint is kept.', ['no', 'steps', 'epoch']), 'steps'),
  save_steps: v.optional(stepCount('Steps between two checkpoints.'), 500),
  save_total_limit: v.optional(
    v.nullable(integer('How many checkpoints are kept at most; null keeps all.', { min: 1 })),
    null,
  ),
  load_best_model_at_end: v.optional(flag('Take the checkpoint with the lowest eval_loss as the result.'), false),
  label_smoothing_factor: v.optional(
    number('Share of each label spread over the whole vocabulary.', { min: 0, below: 1 }),
    0,
  ),
  gradient_checkpointing: v.optional(
    v.nullable(
      flag(
        'Compute the inside of each layer again in the backward pass instead of keeping it: less memory, about a third more work, the same result; null does so where the step’s temporaries would not fit one buffer of the device.',
      ),
    ),
    null,
  ),
  optimizer_in_bwd: v.optional(
    v.nullable(
      flag(
        'Update each weight in the backward pass as soon as its gradient is known, and keep no gradient longer: where all weights are trained, a quarter less memory with AdamW and up to half with others. Takes gradient_accumulation_steps of 1. With clipping (max_grad_norm above 0) or fp16 true runs each step forward and backward twice; null saves only what costs no more work.',
      ),
    ),
  ),
});

export const task = v.strictObject({
  task: oneOf('exact_match: the share of rows whose final answer is right.', ['exact_match']),
  source: text('The rows to answer: a hub name, a path relative to the recipe, bundled:NAME, or a URL.'),
  limit: v.optional(v.nullable(integer('Only the first so many rows; null takes all.', { min: 1 })), null),
  max_new_tokens: v.optional(integer('Longest answer in tokens.', { min: 1 }), 256),
});

export const evaluate = v.strictObject({
  tasks: v.optional(listOf('What teacher, student before and student after are measured on, besides loss.', task), []),
});

export const exportFormats = v.strictObject({
  onnx: v.optional(
    listOf(
      'Precisions of the merged ONNX model, named as in transformers.js.',
      v.picklist(['fp32', 'fp16', 'q8', 'q4', 'q4f16']),
    ),
    ['fp32', 'fp16', 'q8'],
  ),
  flavour: v.optional(
    oneOf(
      'Operators of ONNX files: ort, with those that ONNX Runtime and transformers.js are fast with, or standard, those of ONNX alone, which TensorRT reads as well.',
      ['ort', 'standard'],
    ),
    'ort',
  ),
  external_data: v.optional(
    flag(
      'Write the weights of ONNX files beside them, as browsers need less memory to open; above 1.8 GB it is always so.',
    ),
    false,
  ),
  adapter: v.optional(flag('Write the PEFT adapter.'), true),
  safetensors: v.optional(flag('Write the merged weights as safetensors.'), false),
  gguf: v.optional(listOf('Kinds of GGUF file to write.', v.picklist(['F32', 'F16', 'Q8_0', 'Q4_0'])), []),
  logit_cache: v.optional(
    flag('Write the teacher’s logits as one file, which another run takes with teacher.kind "cache".'),
    false,
  ),
});

/** Version of the recipe's own shape; migrations.ts brings older ones up to it. */
export const SCHEMA_VERSION = 1;

export const recipe = v.strictObject({
  $schema: v.optional(text('Where the JSON Schema lies, for editors that complete and check.'), 'recipe.schema.json'),
  schema_version: v.optional(
    v.pipe(
      v.literal(SCHEMA_VERSION),
      v.description('Version of the recipe’s shape; older ones are brought up to date when read.'),
    ),
    SCHEMA_VERSION,
  ),
  name: v.optional(
    v.pipe(v.string(), v.minLength(1), v.maxLength(100), v.description('What the run is called.')),
    'distillation',
  ),
  seed: v.optional(
    integer('Decides everything random: split, order, dropout, new weights.', { min: 0, max: 2 ** 32 - 1 }),
    42,
  ),
  student: v.pipe(student, v.description('The model that learns.')),
  teacher: v.optional(v.pipe(teacher, v.description('The model that is learnt from.')), { kind: 'none' }),
  data: v.pipe(data, v.description('The rows that both see.')),
  distill: v.optional(v.pipe(distill, v.description('What the student learns from the teacher.')), {}),
  lora: v.optional(
    v.nullable(
      v.pipe(
        lora,
        v.description(
          'The adapter that is trained; null trains all weights; absent: r 8, lora_alpha 16 on all linear layers.',
        ),
      ),
    ),
    LORA_WHEN_ABSENT,
  ),
  training: v.optional(v.pipe(training, v.description('How training goes, named as in transformers.')), {}),
  evaluate: v.optional(v.pipe(evaluate, v.description('What is measured at the end.')), {}),
  export: v.optional(v.pipe(exportFormats, v.description('What is written.')), {}),
});

type DeepReadonly<T> = T extends readonly (infer E)[]
  ? readonly DeepReadonly<E>[]
  : T extends object
    ? { readonly [K in keyof T]: DeepReadonly<T[K]> }
    : T;

/** A recipe as a person writes it: most fields may be absent. */
export type RecipeInput = DeepReadonly<v.InferInput<typeof recipe>>;

type Filled = v.InferOutput<typeof recipe>;

/** A recipe with every default filled in. */
export type Recipe = DeepReadonly<
  Omit<Filled, 'distill' | 'training'> & {
    /** Objective and alpha are settled by whether there is a teacher. */
    distill: Required<Filled['distill']>;
    /** eval_steps is settled by logging_steps. */
    training: Filled['training'] & { eval_steps: number };
  }
>;

export type Student = Recipe['student'];
export type Compress = NonNullable<Student['compress']>;
export type Teacher = Recipe['teacher'];
export type Data = Recipe['data'];
export type Distill = Recipe['distill'];
export type Objective = Distill['objective'];
export type Tail = Distill['tail'];
export type Lora = NonNullable<Recipe['lora']>;
export type Training = Recipe['training'];
export type Task = Recipe['evaluate']['tasks'][number];
export type Export = Recipe['export'];
export type OnnxDtype = Export['onnx'][number];
