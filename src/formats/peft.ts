/**
 * A LoRA adapter as PEFT keeps it: adapter_config.json and adapter_model.safetensors (huggingface/peft, checkpoint.md,
 * tuners/lora/config.py). Names lose `base_model.model.` on reading and get it back on writing. DoRA's magnitude is
 * `….lora_magnitude_vector.weight` here and without `.weight` in the file; the bias of a layer with a pair is the base's
 * `….bias` here and `….base_layer.bias` in the file, as PEFT has it. So is the weight of a head with a pair, which PEFT
 * keeps with it.
 */
import type { ByteSource, FileSource } from './byte-source.ts';
import { InputError } from './input-error.ts';
import { readJsonObject } from './json-file.ts';
import { moduleMatcher, rankOf } from './peft-modules.ts';
import { openSafetensors, writeSafetensors } from './safetensors.ts';
import { isJsonObject, type JsonObject } from './strict-json.ts';

export interface AdapterConfig {
  readonly r: number;
  readonly lora_alpha: number;
  readonly lora_dropout: number;
  /** Names that end a module's path, one regular expression for the whole path, or `all-linear`. */
  readonly target_modules: readonly string[] | string;
  readonly exclude_modules: readonly string[] | string | null;
  /** Layers that the adapter is kept to; null is all. */
  readonly layers_to_transform: readonly number[] | null;
  readonly layers_pattern: readonly string[] | null;
  readonly modules_to_save: readonly string[] | null;
  readonly bias: 'none' | 'all' | 'lora_only';
  readonly fan_in_fan_out: boolean;
  readonly use_rslora: boolean;
  readonly use_dora: boolean;
  /** Each pair's B has a bias, `….lora_B.bias`, scaled as their product is. */
  readonly lora_bias: boolean;
  /** r and lora_alpha of modules whose path ends with the pattern. */
  readonly rank_pattern: Readonly<Record<string, number>>;
  readonly alpha_pattern: Readonly<Record<string, number>>;
  /** Rows of the embedding, or of modules by name, that the adapter holds: consecutive ids. */
  readonly trainable_token_indices: readonly number[] | Readonly<Record<string, readonly number[]>> | null;
  /** Saved modules that share a weight go on sharing it; without, each gets a copy of its own. */
  readonly ensure_weight_tying: boolean;
  readonly init_lora_weights: boolean | string;
  readonly task_type: string | null;
  readonly base_model_name_or_path: string | null;
  readonly revision: string | null;
  /** Every other option that is set and could change numbers: whoever uses the adapter refuses those by name. */
  readonly others: JsonObject;
}

export interface AdapterTensor {
  readonly shape: readonly number[];
  readonly data: Float32Array<ArrayBuffer>;
}

export interface Adapter {
  readonly config: AdapterConfig;
  /** `model.layers.0.self_attn.q_proj.lora_A.weight` …; modules to save and biases under their own names. */
  readonly tensors: ReadonlyMap<string, AdapterTensor>;
}

export const adapterConfigFile = 'adapter_config.json';
export const adapterWeightsFile = 'adapter_model.safetensors';
const prefix = 'base_model.model.';
const magnitude = '.lora_magnitude_vector';
/** Of a layer that has a pair. */
const ofBase = /\.base_layer\.(bias|weight)$/;
/** Biases of saved modules once more, which PEFT writes with bias "all" and does not need. */
const twice = /\.(?:modules_to_save|original_module)\.(?:.*\.)?bias$/;

/** PEFT's own defaults for what a file leaves out. */
const defaults: AdapterConfig = {
  r: 8,
  lora_alpha: 8,
  lora_dropout: 0,
  target_modules: [],
  exclude_modules: null,
  layers_to_transform: null,
  layers_pattern: null,
  modules_to_save: null,
  bias: 'none',
  fan_in_fan_out: false,
  use_rslora: false,
  use_dora: false,
  lora_bias: false,
  rank_pattern: {},
  alpha_pattern: {},
  trainable_token_indices: null,
  ensure_weight_tying: false,
  init_lora_weights: true,
  task_type: null,
  base_model_name_or_path: null,
  revision: null,
  others: {},
};

/** Options that never change what a finished adapter computes. */
const inert = new Set([
  'peft_type',
  'peft_version',
  'auto_mapping',
  'inference_mode',
  'qalora_group_size',
  'megatron_core',
  'megatron_config',
  'runtime_config',
]);
/** How weights began, which a finished adapter already holds. */
const initialisers = /^(loftq|eva|corda|lora_ga)_config$/;

export async function readAdapter(folder: FileSource): Promise<Adapter> {
  const open = async (path: string) => {
    const source = await folder.open(path);
    if (source === undefined) {
      const what = `it holds no ${path}`;
      throw new InputError(folder.name, '', what, `a PEFT adapter: ${adapterConfigFile} and ${adapterWeightsFile}`);
    }
    return source;
  };
  const configSource = await open(adapterConfigFile);
  const config = parseAdapterConfig(await readJsonObject(configSource), configSource.name);
  return { config, tensors: await readTensors(await open(adapterWeightsFile), config) };
}

async function readTensors(source: ByteSource, config: AdapterConfig): Promise<Map<string, AdapterTensor>> {
  const file = await openSafetensors(source);
  const tensors = new Map<string, AdapterTensor>();
  for (const [stored, { shape }] of file.tensors) {
    if (!stored.startsWith(prefix)) {
      throw new InputError(
        source.name,
        `tensor ${stored}`,
        'its name is not PEFT’s',
        `names that start with ${prefix}`,
      );
    }
    const path = stored.slice(prefix.length);
    if (twice.test(path)) continue;
    const name = nameOf(path);
    if (tensors.has(name)) throw new InputError(source.name, `tensor ${stored}`, 'it is there twice', 'one name');
    tensors.set(name, { shape, data: await file.readF32(stored) });
  }
  for (const [name, { shape }] of tensors) {
    const [, path, side] = /^(.*)\.lora_([AB])\.weight$/.exec(name) ?? [];
    if (path === undefined) continue;
    const refuse = (what: string, allowed: string) => new InputError(source.name, `tensor ${name}`, what, allowed);
    const other = side === 'A' ? 'B' : 'A';
    if (!tensors.has(`${path}.lora_${other}.weight`)) throw refuse(`its lora_${other} is missing`, 'both of a pair');
    const rank = side === 'A' ? shape[0] : shape[1];
    const expected = rankOf(config, path, adapterConfigFile);
    if (shape.length !== 2 || rank !== expected) {
      const layout = side === 'A' ? '[r, in]' : '[out, r]';
      throw refuse(
        `its shape is ${JSON.stringify(shape)}`,
        `${layout} with r ${expected}, as ${adapterConfigFile} has it`,
      );
    }
  }
  return tensors;
}

/** A tensor's name, of its path in the file. */
function nameOf(path: string): string {
  if (path.endsWith(magnitude)) return `${path}.weight`;
  return path.replace(ofBase, '.$1');
}

/** The other way. */
function pathOf(name: string, tensors: ReadonlyMap<string, AdapterTensor>): string {
  if (name.endsWith(`${magnitude}.weight`)) return name.slice(0, -'.weight'.length);
  const [, layer, part] = /^(.*)\.(bias|weight)$/.exec(name) ?? [];
  return tensors.has(`${layer}.lora_A.weight`) ? `${layer}.base_layer.${part}` : name;
}

/** Values of an adapter_config.json, checked; `file` is what errors name. */
export function parseAdapterConfig(json: JsonObject, file: string): AdapterConfig {
  const refuse = (field: string, allowed: string) =>
    new InputError(file, field, Object.hasOwn(json, field) ? `it is ${brief(json[field])}` : 'it is missing', allowed);
  /** The field's value where it is there and not null, else the default. */
  function take<K extends keyof AdapterConfig>(
    field: K,
    allowed: string,
    fits: (value: unknown) => boolean,
  ): AdapterConfig[K] {
    const value = Object.hasOwn(json, field) ? json[field] : undefined;
    if (value == null) return defaults[field];
    if (!fits(value)) throw refuse(field, allowed);
    return value as AdapterConfig[K];
  }
  const isBoolean = (value: unknown) => typeof value === 'boolean';
  const isText = (value: unknown) => typeof value === 'string';
  const isTexts = (value: unknown) => Array.isArray(value) && value.every(isText);
  const isModules = (value: unknown) => isText(value) || isTexts(value);
  const isRank = (value: unknown) => Number.isSafeInteger(value) && (value as number) >= 1;
  const isNumber = (value: unknown) => typeof value === 'number' && Number.isFinite(value);
  const isLayer = (value: unknown) => Number.isSafeInteger(value) && (value as number) >= 0;
  const isRows = (value: unknown) =>
    Array.isArray(value) && value.every((id, i) => isLayer(id) && (i === 0 || id === (value[i - 1] as number) + 1));
  const isPattern = (fits: (value: unknown) => boolean) => (value: unknown) =>
    isJsonObject(value) && Object.values(value).every(fits);
  // One layer or one pattern may stand without its list.
  const listed = (field: string): JsonObject =>
    json[field] == null || Array.isArray(json[field]) ? {} : { [field]: [json[field]] };

  if (json.peft_type !== 'LORA') throw refuse('peft_type', '"LORA"');
  if (json.target_modules == null)
    throw refuse('target_modules', 'a list of names, a regular expression or "all-linear"');
  json = { ...json, ...listed('layers_to_transform'), ...listed('layers_pattern') };
  const config: AdapterConfig = {
    r: take('r', 'a whole number from 1', isRank),
    lora_alpha: take('lora_alpha', 'a number', isNumber),
    lora_dropout: take(
      'lora_dropout',
      'a number from 0 to below 1',
      (v) => isNumber(v) && (v as number) >= 0 && (v as number) < 1,
    ),
    target_modules: take('target_modules', 'a list of names, a regular expression or "all-linear"', isModules),
    exclude_modules: take('exclude_modules', 'a list of names or a regular expression', isModules),
    layers_to_transform: take(
      'layers_to_transform',
      'whole numbers from 0',
      (v) => Array.isArray(v) && v.every(isLayer),
    ),
    layers_pattern: take('layers_pattern', 'names', isTexts),
    modules_to_save: take('modules_to_save', 'a list of names', isTexts),
    bias: take('bias', '"none", "all" or "lora_only"', (v) => ['none', 'all', 'lora_only'].includes(v as string)),
    fan_in_fan_out: take('fan_in_fan_out', 'true or false', isBoolean),
    use_rslora: take('use_rslora', 'true or false', isBoolean),
    use_dora: take('use_dora', 'true or false', isBoolean),
    lora_bias: take('lora_bias', 'true or false', isBoolean),
    rank_pattern: take('rank_pattern', 'an object: pattern to whole number from 1', isPattern(isRank)),
    alpha_pattern: take('alpha_pattern', 'an object: pattern to number', isPattern(isNumber)),
    trainable_token_indices: take(
      'trainable_token_indices',
      'consecutive token ids, or such lists by module',
      (v) => isRows(v) || (isJsonObject(v) && Object.values(v).every(isRows)),
    ),
    ensure_weight_tying: take('ensure_weight_tying', 'true or false', isBoolean),
    init_lora_weights: take('init_lora_weights', 'true, false or a name', (v) => isBoolean(v) || isText(v)),
    task_type: take('task_type', 'a string or null', isText),
    base_model_name_or_path: take('base_model_name_or_path', 'a string or null', isText),
    revision: take('revision', 'a string or null', isText),
    others: Object.fromEntries(Object.entries(json).filter(([field, value]) => isOther(field, value))),
  };
  for (const field of ['target_modules', 'exclude_modules'] as const) {
    const modules = config[field];
    if (modules !== null) moduleMatcher(modules, file, field);
  }
  for (const field of ['rank_pattern', 'alpha_pattern'] as const)
    rankOf({ r: 1, rank_pattern: config[field] }, '', file, field);
  return config;
}

function isOther(field: string, value: unknown): boolean {
  if (Object.hasOwn(defaults, field) || inert.has(field) || initialisers.test(field)) return false;
  if (value == null || value === false) return false;
  return typeof value !== 'object' || Object.keys(value).length > 0;
}

function brief(value: unknown): string {
  const text = JSON.stringify(value) ?? 'missing';
  return text.length > 80 ? `${text.slice(0, 80)}…` : text;
}

/** The two files of an adapter folder; options that are null or empty are left out, as PEFT reads their defaults. */
export function writeAdapter(
  config: AdapterConfig,
  tensors: ReadonlyMap<string, AdapterTensor>,
): { path: string; bytes: Uint8Array<ArrayBuffer> }[] {
  const {
    others,
    lora_bias,
    exclude_modules,
    layers_to_transform,
    layers_pattern,
    trainable_token_indices,
    ...common
  } = config;
  const json = {
    peft_type: 'LORA',
    ...common,
    ...(lora_bias ? { lora_bias } : {}),
    ...(exclude_modules === null ? {} : { exclude_modules }),
    ...(layers_to_transform === null ? {} : { layers_to_transform }),
    ...(layers_pattern === null ? {} : { layers_pattern }),
    ...(trainable_token_indices === null ? {} : { trainable_token_indices }),
    ...others,
    inference_mode: true,
  };
  const stored = [...tensors].map(([name, { shape, data }]) => ({
    name: prefix + pathOf(name, tensors),
    dtype: 'F32',
    shape,
    data,
  }));
  return [
    { path: adapterConfigFile, bytes: new TextEncoder().encode(`${JSON.stringify(json, null, 2)}\n`) },
    { path: adapterWeightsFile, bytes: writeSafetensors(stored, { format: 'pt' }) },
  ];
}

/** A config of PEFT's defaults but for what is given. */
export function adapterConfig(given: Partial<AdapterConfig> & Pick<AdapterConfig, 'target_modules'>): AdapterConfig {
  return { ...defaults, ...given };
}
