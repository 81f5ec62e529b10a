/**
 * Step 3: the model that learns, as it starts: opened, cut if the recipe says so, with the adapter that is trained. Weights
 * are read when they are put on a device; everything is a function of files, recipe and seed, so nothing is kept of it.
 */
import { ggufOf } from '../../export/export-model.ts';
import { mergeAdapters, type NamedAdapter } from '../../export/merge.ts';
import { adapterConfig, type AdapterConfig, type AdapterTensor } from '../../formats/peft.ts';
import { InputError } from '../../formats/input-error.ts';
import type { TensorFile } from '../../formats/tensor-file.ts';
import { addTokens, growVocabulary, trainedTokens, type AddedTokens } from '../../models/add-tokens.ts';
import { isEncoder, type ModelOptions } from '../../models/architectures/index.ts';
import { compress as compressed, keptLayers } from '../../models/compress.ts';
import type { EncoderOptions } from '../../models/encoder.ts';
import { heldAs } from '../../models/held.ts';
import { trainsWhole, type LoraSettings } from '../../models/lora.ts';
import { defaultTargets, newAdapter } from '../../models/lora-init.ts';
import { adapterParameters, countParameters, openAnyModel, type Model } from '../../models/model.ts';
import { withNewHead } from '../../models/new-head.ts';
import { trimFolder, trimVocabulary } from '../../models/trim-vocabulary.ts';
import { fitted, untiedFor } from '../../models/untie.ts';
import type { Recipe } from '../../recipe/schema.ts';
import type { StepModel } from '../../train/step-graphs.ts';
import type { RecipeContext } from '../context.ts';
import { plainName } from '../hub.ts';
import { loraSettings, openAdapter } from './adapter.ts';
import { studentEncoder } from './student-encoder.ts';
import { studentFolder } from './student-tokenizer.ts';

export interface Student {
  /** Before training; the adapter is apart. */
  readonly model: Model<ModelOptions>;
  readonly adapter: StudentAdapter | null;
  readonly step: StepModel;
  readonly parameters: number;
  /** Numbers that are trained. */
  readonly trainable: number;
  /** Numbers that its layers had in the model that was cut. */
  readonly layers?: readonly number[];
  /** Of an encoder that came without a masked-LM head and was given a random one. */
  readonly newHead: boolean;
}

export interface StudentAdapter {
  readonly config: AdapterConfig;
  readonly settings: LoraSettings;
  /** What it starts from. */
  readonly tensors: ReadonlyMap<string, AdapterTensor>;
}

export async function openStudent(context: RecipeContext): Promise<Student> {
  const { recipe } = context;
  const { model: whole, newHead } = await baseOf(context);
  await refuseOtherThanRows(context, whole);
  const { compress } = recipe.student;
  const cut = compress ? compressed(whole, compress, recipe.seed, context.recipeFile, context.importance) : whole;
  const added = await addTokens(cut.folder, recipe.student.add_tokens);
  const { model: grown, added: tokens } = await trimmed(context, growVocabulary(cut, added), added);
  const { model: given, adapter } = await withAdapter(context, grown, tokens);
  const { dtype, block_size } = recipe.student;
  const model = dtype === 'f32' ? given : heldAs(given, dtype, block_size, trainedOf(context, adapter));
  // what has no form as GGUF is said now and not after the training
  if (recipe.export.gguf.length > 0) ggufOf(model);
  const parameters = countParameters(model.parameters);
  const trainable = adapter ? countParameters(adapterParameters(model.options, adapter.settings)) : parameters;
  const student: Student = {
    model,
    adapter,
    step: {
      options: model.options,
      adapter: adapter && { settings: adapter.settings, trainable: true },
      trainable: () => adapter === null,
    },
    parameters,
    trainable,
    newHead,
    ...(compress &&
      compress.init !== 'scratch' && {
        layers: keptLayers(whole.options.num_hidden_layers, compress, context.recipeFile, context.importance),
      }),
  };
  return student;
}

/** The model that is cut, or the student as it is; with a head of random weights where it came without. */
export async function baseOf(context: RecipeContext): Promise<{ model: Model<ModelOptions>; newHead: boolean }> {
  const model = await storedBase(context);
  const { lora, seed } = context.recipe;
  // an adapter would leave the new head as random as it is
  const newHead = isEncoder(model.options) && !model.options.head && lora === null;
  return { model: newHead ? withNewHead(model as Model<EncoderOptions>, seed) : model, newHead };
}

async function storedBase(context: RecipeContext): Promise<Model<ModelOptions>> {
  const { student, teacher } = context.recipe;
  if (student.compress?.from === 'teacher' && teacher.kind === 'engine') {
    const model = await openAnyModel(await context.sources.model('teacher.model', teacher.model, teacher.revision));
    if (teacher.adapter === null) return model;
    const adapter = await openAdapter(context, 'teacher.adapter', teacher.adapter);
    return merged(model, { name: teacher.adapter, adapter });
  }
  return openAnyModel(await context.sources.model('student.model', student.model, student.revision));
}

/** The model with the tokens that stay, and where those now are that the recipe adds. */
async function trimmed(
  context: RecipeContext,
  model: Model<ModelOptions>,
  added: AddedTokens,
): Promise<{ model: Model<ModelOptions>; added: AddedTokens }> {
  if (context.recipe.student.compress?.vocabulary !== 'data') return { model, added };
  const { vocabulary } = context;
  if (!vocabulary) throw new Error('which tokens stay is not known before the rows are read');
  const folder = trimFolder(await studentFolder(context), vocabulary);
  const first = vocabulary.kept.indexOf(added.first);
  return { model: trimVocabulary(model, vocabulary, folder), added: { ...added, folder, first } };
}

/** The rows were read for what config.json of student.model says: an encoder with a head to learn by, or a decoder. */
async function refuseOtherThanRows(context: RecipeContext, { name, options }: Model<ModelOptions>): Promise<void> {
  const { model } = context.recipe.student;
  const encoder = await studentEncoder(context);
  if (isEncoder(options) !== (encoder !== undefined)) {
    const kind = isEncoder(options) ? 'is an encoder' : 'is no encoder';
    throw new InputError(
      name,
      '',
      `${kind}, and student.model (${model}) is of the other kind`,
      'two models of a kind',
    );
  }
  if (isEncoder(options) && !options.head) {
    throw new InputError(
      name,
      'masked-LM head',
      'there is none, and an adapter alone can’t teach a new one',
      'a model with its head, or lora: null, which trains all weights and a new head with them',
    );
  }
}

/** Which weights of the base are trained. */
function trainedOf(context: RecipeContext, adapter: StudentAdapter | null): (name: string) => boolean {
  if (adapter) return (name) => trainsWhole(adapter.settings, name);
  const allowed = '"f32", or "lora" settings: what is trained is held in f32';
  throw new InputError(context.recipeFile, 'student.dtype', 'holds frozen weights, and all are trained here', allowed);
}

async function withAdapter(
  context: RecipeContext,
  base: Model<ModelOptions>,
  added: AddedTokens,
): Promise<{ model: Model<ModelOptions>; adapter: StudentAdapter | null }> {
  const { lora, seed, student } = context.recipe;
  const given = student.adapter === null ? undefined : await openAdapter(context, 'student.adapter', student.adapter);
  if (lora === null) {
    return { model: given ? await merged(base, { name: student.adapter!, adapter: given }) : base, adapter: null };
  }
  if (given) {
    if (added.count > 0) {
      throw new InputError(
        context.recipeFile,
        'student.add_tokens',
        'an adapter that goes on training has no rows for new tokens',
        'no tokens to add, or no adapter',
      );
    }
    const { model, adapter } = await fitted(base, given, student.adapter!);
    const settings = loraSettings(adapter.config, lora.lora_dropout);
    refuseMisfit(model, settings, adapter.tensors, student.adapter!);
    return {
      model,
      adapter: { config: { ...adapter.config, lora_dropout: lora.lora_dropout }, settings, tensors: adapter.tensors },
    };
  }
  const asked = newConfig(context, lora, base);
  const model = untiedFor(base, asked);
  const config = { ...asked, trainable_token_indices: trainedTokens(model.options, added, asked) };
  const settings = loraSettings(config, lora.lora_dropout);
  const tensors = await newAdapter(model, settings, lora.init_lora_weights, seed);
  for (const module of lora.modules_to_save ?? []) {
    const alone: LoraSettings = { ...settings, modules_to_save: [module], bias: 'none' };
    if ([...model.parameters.keys()].some((name) => trainsWhole(alone, name))) continue;
    throw new InputError(
      context.recipeFile,
      'lora.modules_to_save',
      `${JSON.stringify(module)} names no module of ${model.name}`,
      'names such as embed_tokens and lm_head',
    );
  }
  if (![...tensors.keys()].some((name) => name.endsWith('.lora_A.weight'))) {
    throw new InputError(
      context.recipeFile,
      'lora.target_modules',
      `${JSON.stringify(lora.target_modules)} names no linear layer of ${model.name}`,
      'names such as q_proj and v_proj, or "all-linear"',
    );
  }
  return { model, adapter: { config, settings, tensors } };
}

function newConfig(
  context: RecipeContext,
  lora: NonNullable<Recipe['lora']>,
  model: Model<ModelOptions>,
): AdapterConfig {
  const targets = lora.target_modules ?? defaultTargets(model.config.model_type);
  if (targets === undefined) {
    throw new InputError(
      context.recipeFile,
      'lora.target_modules',
      `is null, and there is no usual choice for ${String(model.config.model_type)}`,
      'names of linear layers, or "all-linear"',
    );
  }
  const { r, lora_alpha, lora_dropout, use_rslora, use_dora, init_lora_weights, modules_to_save, bias } = lora;
  const { student } = context.recipe;
  return adapterConfig({
    r,
    lora_alpha,
    lora_dropout,
    target_modules: targets,
    use_rslora,
    use_dora,
    init_lora_weights,
    modules_to_save,
    bias,
    fan_in_fan_out: !isEncoder(model.options) && model.options.conv1d === true,
    // PEFT has no name for masked LMs
    task_type: isEncoder(model.options) ? null : 'CAUSAL_LM',
    base_model_name_or_path: student.compress ? null : plainName(student.model),
    revision: student.compress ? null : student.revision,
  });
}

function refuseMisfit(
  model: Model<ModelOptions>,
  settings: LoraSettings,
  tensors: StudentAdapter['tensors'],
  file: string,
): void {
  const wanted = adapterParameters(model.options, settings);
  for (const [name, shape] of wanted) {
    const found = tensors.get(name);
    if (found && String(found.shape) === String(shape)) continue;
    const what = found ? `its shape is [${found.shape}]` : 'it is missing';
    throw new InputError(file, `tensor ${name}`, what, `[${shape}] by the model's config.json`);
  }
  const unused = [...tensors.keys()].find((name) => !wanted.has(name));
  if (unused !== undefined) {
    throw new InputError(file, `tensor ${unused}`, 'nothing in the model uses it', 'tensors of the target modules');
  }
}

async function merged(base: Model<ModelOptions>, { name, adapter: given }: NamedAdapter): Promise<Model<ModelOptions>> {
  const { model, adapter } = await fitted(base, given, name);
  const named = { name, adapter };
  return { ...model, weights: readable(model.weights, mergeAdapters(model.weights, [named], model.options)) };
}

/** The base's index over other values. */
export function readable(base: TensorFile, values: Pick<TensorFile, 'readF32'>): TensorFile {
  const { name, tensors, metadata } = base;
  return {
    name,
    tensors,
    metadata,
    read: (tensor) => values.readF32(tensor),
    readF32: (tensor) => values.readF32(tensor),
  };
}
