/**
 * A model as it is brought: a folder with `config.json` and weights (or one GGUF that says it all), optionally an adapter.
 * Opening reads the config and the weights' index, checks that every parameter is there in its shape, and reads no weights.
 */
import { Graph } from '../engine/graph/graph.ts';
import type { Shape } from '../engine/graph/types.ts';
import { readText, type FileSource } from '../formats/byte-source.ts';
import { InputError } from '../formats/input-error.ts';
import type { TensorFile } from '../formats/tensor-file.ts';
import { openWeights } from '../formats/weights.ts';
import {
  isEncoder,
  isEncoderConfig,
  readAnyArchitecture,
  readArchitecture,
  textConfig,
  type ModelOptions,
} from './architectures/index.ts';
import type { RawConfig } from './config.ts';
import { decoder, type DecoderAdapter, type DecoderOptions } from './decoder.ts';
import { encoder } from './encoder.ts';
import { trainsWhole, type LoraSettings } from './lora.ts';
import { underHubNames } from './stored-names.ts';

export interface Model<Options extends ModelOptions = DecoderOptions> {
  /** As the person named it. */
  readonly name: string;
  readonly folder: FileSource;
  readonly config: RawConfig;
  readonly options: Options;
  /** Base parameters by hub name, tied ones once. */
  readonly parameters: ReadonlyMap<string, Shape>;
  readonly weights: TensorFile;
}

/** A decoder: what is trained, teaches and writes text. */
export function openModel(folder: FileSource): Promise<Model> {
  return open(folder, readArchitecture);
}

/** A decoder or an encoder. */
export function openAnyModel(folder: FileSource): Promise<Model<ModelOptions>> {
  return open(folder, readAnyArchitecture);
}

async function open<Options extends ModelOptions>(
  folder: FileSource,
  read: (config: RawConfig, file: string, stored: ReadonlySet<string>) => Options,
): Promise<Model<Options>> {
  const stored = await openWeights(folder);
  const whole = (await readConfig(folder)) ?? stored.config;
  if (!whole)
    throw new InputError(folder.name, 'config.json', 'it is missing', 'a model folder as the hub holds it, or a GGUF');
  const file = `${folder.name}/config.json`;
  const config = textConfig(whole, file);
  const weights = underHubNames(stored, whole.model_type);
  const options = read(config, file, new Set(weights.tensors.keys()));
  const parameters = baseParameters(options);
  checkShapes(weights, parameters);
  return { name: folder.name, folder, config, options, parameters, weights };
}

/**
 * What its config.json alone says of a decoder: enough to know how large it is before its weights are looked at. undefined of
 * an encoder, which is read with the names of its weights, and of a GGUF, which has no other config than its own.
 */
export async function decoderByConfig(
  folder: FileSource,
): Promise<Pick<Model, 'name' | 'options' | 'parameters'> | undefined> {
  const whole = await readConfig(folder);
  if (!whole || isEncoderConfig(whole)) return undefined;
  const options = readArchitecture(whole, `${folder.name}/config.json`);
  return { name: folder.name, options, parameters: baseParameters(options) };
}

export async function readConfig(folder: FileSource): Promise<RawConfig | undefined> {
  const source = await folder.open('config.json');
  if (!source) return undefined;
  const file = `${folder.name}/config.json`;
  let config: unknown;
  try {
    config = JSON.parse(await readText(source));
  } catch (error) {
    throw new InputError(file, '', (error as Error).message, 'JSON');
  }
  if (typeof config !== 'object' || config === null || Array.isArray(config))
    throw new InputError(file, '', 'it is no object', 'a config as the hub holds it');
  return config as RawConfig;
}

/** Hub names and shapes of all weights: whatever the builder asks for. */
export function baseParameters(options: ModelOptions): Map<string, Shape> {
  return parametersOf(options);
}

/**
 * Names and shapes of what these settings train of a model: low-rank pairs, DoRA's magnitudes, rows of new tokens, and
 * weights of the base that are trained whole.
 */
export function adapterParameters(options: ModelOptions, settings: LoraSettings): Map<string, Shape> {
  const all = parametersOf(options, { settings, trainable: true });
  return new Map([...all].filter(([name]) => ADDED.test(name) || trainsWhole(settings, name)));
}

/** What an adapter adds to the base's weights. */
const ADDED = /\.(?:lora_(?:A|B|magnitude_vector)\.weight|lora_B\.bias|token_adapter\.trainable_tokens_delta)$/;

function parametersOf(options: ModelOptions, adapter?: DecoderAdapter): Map<string, Shape> {
  const graph = new Graph();
  const ids = (name: string) => graph.input(name, [1, 1], 'i32');
  const segments = ids('segments');
  const input_ids = ids('input_ids');
  if (isEncoder(options)) {
    encoder(graph, options, { input_ids, segments, token_type_ids: ids('token_type_ids') }, { adapter });
  } else {
    const inputs = { input_ids, position_ids: ids('position_ids'), query_segments: segments, key_segments: segments };
    decoder(graph, options, inputs, { adapter });
  }
  return new Map(graph.parameters().map(({ name, value }) => [name, value.type.shape]));
}

export function countParameters(parameters: ReadonlyMap<string, Shape>): number {
  let count = 0;
  for (const shape of parameters.values())
    count += shape.reduce<number>((product, dim) => product * (dim as number), 1);
  return count;
}

function checkShapes(weights: TensorFile, parameters: ReadonlyMap<string, Shape>): void {
  for (const [name, shape] of parameters) {
    const info = weights.tensors.get(name);
    if (!info) throw new InputError(weights.name, `tensor ${name}`, 'it is missing', `[${shape}]`);
    if (String(info.shape) !== String(shape)) {
      throw new InputError(weights.name, `tensor ${name}`, `its shape is [${info.shape}]`, `[${shape}] by config.json`);
    }
  }
}
