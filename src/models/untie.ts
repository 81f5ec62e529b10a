/**
 * Tied embeddings under an adapter that saves the embedding or the head whole (peft's ModulesToSaveWrapper): each saved
 * module is a copy of its own, and the other one stays the base's. The two are one weight no more, and a merged model says
 * `tie_word_embeddings: false`, as peft's merge does. Only `ensure_weight_tying` keeps them one: the file then holds the
 * weight twice.
 */
import { InputError } from '../formats/input-error.ts';
import type { Adapter } from '../formats/peft.ts';
import type { TensorFile } from '../formats/tensor-file.ts';
import { isEncoder, type ModelOptions } from './architectures/index.ts';
import { headName } from './language-model.ts';
import { trainsWhole, type LoraSettings } from './lora.ts';
import { baseParameters, type Model } from './model.ts';
import { LLAMA_NAMES } from './names.ts';

const HEAD = 'lm_head.weight';

/** The model and the adapter as they fit each other; `name` is the adapter's, as the person gave it. */
export function fitted<Options extends ModelOptions>(
  model: Model<Options>,
  adapter: Adapter,
  name: string,
): { model: Model<Options>; adapter: Adapter } {
  if (!adapter.config.ensure_weight_tying) return { model: untiedFor(model, adapter.config, name), adapter };
  if (!model.options.tie_word_embeddings) return { model, adapter };
  const tensors = new Map(adapter.tensors);
  tensors.delete(HEAD);
  return { model, adapter: { ...adapter, tensors } };
}

/** The adapter as PEFT reads it again: a weight that stays tied is in the file under both names. */
export function stored({ options }: Pick<Model<ModelOptions>, 'options'>, { config, tensors }: Adapter): Adapter {
  const shared = tensors.get(headName(options));
  if (!config.ensure_weight_tying || !options.tie_word_embeddings || !shared) return { config, tensors };
  return { config, tensors: new Map([...tensors, [HEAD, shared]]) };
}

/** The model with a head of its own, where these settings train one of two that are tied. */
export function untiedFor<Options extends ModelOptions>(
  model: Model<Options>,
  settings: LoraSettings,
  file: string,
): Model<Options> {
  const { options } = model;
  if (!options.tie_word_embeddings) return model;
  const table = isEncoder(options)
    ? `${options.names.embeddings}.word_embeddings.weight`
    : `${((options as { names?: typeof LLAMA_NAMES }).names ?? LLAMA_NAMES).embedding}.weight`;
  if (!trainsWhole(settings, table) && !trainsWhole(settings, HEAD)) return model;
  if (isEncoder(options)) {
    throw new InputError(file, 'modules_to_save', 'the encoder’s head shares the embedding', 'other modules');
  }
  const untied = { ...options, tie_word_embeddings: false };
  return {
    ...model,
    config: { ...model.config, tie_word_embeddings: false },
    options: untied,
    parameters: baseParameters(untied),
    weights: withHead(model.weights, table),
  };
}

function withHead(weights: TensorFile, table: string): TensorFile {
  const of = (name: string): string => (name === HEAD ? table : name);
  return {
    name: weights.name,
    metadata: weights.metadata,
    tensors: new Map([...weights.tensors, [HEAD, weights.tensors.get(table)!]]),
    read: (name) => weights.read(of(name)),
    readF32: (name) => weights.readF32(of(name)),
  };
}
