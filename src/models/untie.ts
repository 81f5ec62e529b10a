/**
 * A model and an adapter as they fit each other.
 *
 * Tied embeddings come apart under an adapter that saves the embedding or the head whole (peft's ModulesToSaveWrapper: each
 * saved module is a copy of its own, and the other one stays the base's), or that has a pair on the head. The two are one
 * weight no more, and a merged model says `tie_word_embeddings: false`, as peft's merge does of the former; of the latter it
 * changes the embedding as well, and its merged model computes something else than the adapter. Only `ensure_weight_tying`
 * keeps them one: the file then holds the weight twice.
 */
import { InputError } from '../formats/input-error.ts';
import type { Adapter } from '../formats/peft.ts';
import type { TensorFile } from '../formats/tensor-file.ts';
import { isEncoder, type ModelOptions } from './architectures/index.ts';
import { headName } from './language-model.ts';
import { adaptedHead, peftName, trainsWhole, type LoraSettings } from './lora.ts';
import { adapterParameters, baseParameters, type Model } from './model.ts';

/** `name` is the adapter's, as the person gave it. */
export async function fitted<Options extends ModelOptions>(
  base: Model<Options>,
  { config, tensors }: Adapter,
  name: string,
): Promise<{ model: Model<Options>; adapter: Adapter }> {
  refuseUnserved(base, { config, tensors }, name);
  const staysTied = config.ensure_weight_tying && base.options.tie_word_embeddings;
  const model = config.ensure_weight_tying ? base : untiedFor(base, config);
  const own = new Map(underOneName(model.options, tensors));
  if (staysTied) own.delete(headOf(model.options).weight);
  return { model, adapter: await withoutCopies(model, { config, tensors: own }, name) };
}

function refuseUnserved(
  { options, parameters }: Model<ModelOptions>,
  { config, tensors }: Adapter,
  file: string,
): void {
  const refuse = (option: string, what: string) =>
    new InputError(file, `adapter_config.json: ${option}`, what, 'adapters without it');
  const [option] = Object.keys(config.others);
  if (option !== undefined) throw refuse(option, 'it changes what the adapter computes, and is not served');
  const embedded = [...tensors.keys()].find((name) => name.includes('.lora_embedding_'));
  if (embedded !== undefined) {
    throw new InputError(file, `tensor ${embedded}`, 'pairs on an embedding are not served', 'pairs on linear layers');
  }
  if (!config.lora_bias) return;
  if (config.use_dora) throw refuse('lora_bias', 'PEFT has none beside use_dora');
  // where a layer has no bias, PEFT warns that what it trained can't be merged
  const own = new Set(parameters.keys());
  const bare = [...tensors.keys()].flatMap((name) => /^(.*)\.lora_A\.weight$/.exec(name)?.[1] ?? []);
  const head = headOf(options).weight.replace(/\.weight$/, '');
  const path = bare.find((one) => one === head || !own.has(`${one}.bias`));
  if (path !== undefined) throw refuse('lora_bias', `${path} has no bias that it could be merged into`);
}

/** The bias of an encoder's head has another name where the head is tied, and PEFT may keep it under both. */
function underOneName(options: ModelOptions, tensors: Adapter['tensors']): Adapter['tensors'] {
  if (!isEncoder(options)) return tensors;
  const names = [headOf(options).bias!, options.names.tied_bias];
  const [own, other] = (options.tie_word_embeddings ? names.reverse() : names) as [string, string];
  const value = tensors.get(own) ?? tensors.get(other);
  if (own === other || value === undefined) return tensors;
  const one = new Map(tensors).set(own, value);
  one.delete(other);
  return one;
}

/**
 * PEFT keeps the weight of an embedding or a head beside the pair that is on it. It must be the base's own, or the adapter
 * was made for another base.
 */
async function withoutCopies(model: Model<ModelOptions>, adapter: Adapter, file: string): Promise<Adapter> {
  const wanted = adapterParameters(model.options, adapter.config);
  const tensors = new Map(adapter.tensors);
  for (const [name, { data }] of adapter.tensors) {
    if (wanted.has(name) || !model.parameters.has(name)) continue;
    const own = await model.weights.readF32(name);
    if (own.length !== data.length || own.some((value, i) => value !== data[i])) {
      const what = 'it is not the base’s, and modules_to_save does not say that it was trained';
      throw new InputError(file, `tensor ${name}`, what, 'the base that the adapter was made for');
    }
    tensors.delete(name);
  }
  return { ...adapter, tensors };
}

/**
 * What PEFT's model calls a parameter of a fitted model, as `peftName` has it. The bias of an encoder's tied head goes by its
 * other name there, also where the head came apart from the embedding: PyTorch names a parameter once, by its first module.
 */
export function fittedName(
  { options }: Pick<Model<ModelOptions>, 'options'>,
  settings: LoraSettings,
  name: string,
): string {
  if (!isEncoder(options) || !options.tie_word_embeddings || name !== headOf(options).bias)
    return peftName(settings, name);
  const { tied_bias } = options.names;
  return peftName(settings, trainsWhole(settings, tied_bias) ? tied_bias : name);
}

/**
 * The adapter as PEFT reads it again: a weight that stays tied is in the file under both names, and so is the bias of an
 * encoder's head; PEFT refuses a saved module of which a name is missing.
 */
export function stored({ options }: Pick<Model<ModelOptions>, 'options'>, { config, tensors }: Adapter): Adapter {
  const all = new Map(tensors);
  const shared = tensors.get(headName(options));
  if (config.ensure_weight_tying && options.tie_word_embeddings && shared) all.set(headOf(options).weight, shared);
  if (isEncoder(options)) {
    const names = [headOf(options).bias!, options.names.tied_bias];
    const bias = names.map((name) => tensors.get(name)).find((value) => value !== undefined);
    if (bias) for (const name of names) if (trainsWhole(config, name)) all.set(name, bias);
  }
  return { config, tensors: all };
}

/** The model with a head of its own, where these settings train one of two that are tied. */
export function untiedFor<Options extends ModelOptions>(model: Model<Options>, settings: LoraSettings): Model<Options> {
  const { options } = model;
  const head = headOf(options);
  const pair = adaptedHead(settings, head.weight.replace(/\.weight$/, ''));
  if (!options.tie_word_embeddings) return model;
  const table = headName(options);
  if (!pair && !trainsWhole(settings, table) && !trainsWhole(settings, head.weight)) return model;
  const untied = { ...options, tie_word_embeddings: false };
  const copies = new Map([[head.weight, table]]);
  if (isEncoder(options)) copies.set(head.bias!, options.names.tied_bias);
  return {
    ...model,
    config: { ...model.config, tie_word_embeddings: false },
    options: untied,
    parameters: baseParameters(untied),
    weights: withCopies(model.weights, copies),
  };
}

/** What a head's weight and bias are called when they are its own. */
function headOf(options: ModelOptions): { weight: string; bias?: string } {
  if (!isEncoder(options)) return { weight: 'lm_head.weight' };
  return { weight: `${options.names.head}.weight`, bias: `${options.names.head}.bias` };
}

/** @param copies new names, and those that they are copies of */
function withCopies(weights: TensorFile, copies: ReadonlyMap<string, string>): TensorFile {
  const of = (name: string): string => copies.get(name) ?? name;
  return {
    name: weights.name,
    metadata: weights.metadata,
    tensors: new Map([
      ...weights.tensors,
      ...[...copies].map(([name, from]) => [name, weights.tensors.get(from)!] as const),
    ]),
    read: (name) => weights.read(of(name)),
    readF32: (name) => weights.readF32(of(name)),
  };
}
