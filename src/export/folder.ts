/**
 * The small files of a model folder as transformers and transformers.js look for them: config, generation defaults,
 * tokenizer, chat template.
 */
import { readAll, readText, type FileSource } from '../formats/byte-source.ts';
import { isJsonObject, parseStrictJson, type JsonObject } from '../formats/strict-json.ts';
import type { RawConfig } from '../models/config.ts';
import type { OnnxDtype } from './onnx/precision/precision.ts';

export interface SmallFile {
  readonly path: string;
  readonly bytes: Uint8Array;
}

/** What a device of transformers.js takes when nobody names a dtype: the first of these that was exported. */
const PREFERRED: Readonly<Record<'any' | 'wasm', readonly OnnxDtype[]>> = {
  any: ['fp32', 'fp16', 'q8', 'q4', 'q4f16'],
  // what is smallest to download and, measured there, not slower than fp32 (q4 is, ten times)
  wasm: ['q8', 'fp16', 'fp32', 'q4', 'q4f16'],
};

export interface ConfigOptions {
  readonly dtypes: readonly OnnxDtype[];
  /** Encoders have no cache. */
  readonly cache: boolean;
  /** Files of external data by the ONNX file's name. */
  readonly externalData: Readonly<Record<string, number>>;
}

/** config.json of the exported model. */
export function configFile(config: RawConfig, options: ConfigOptions): SmallFile {
  const { quantization_config: _quantized, _name_or_path: _name, torch_dtype, ...kept } = config;
  const json = {
    ...kept,
    [torch_dtype === undefined ? 'dtype' : 'torch_dtype']: 'float32',
    ...(options.cache ? { use_cache: true } : {}),
    'transformers.js_config': options.dtypes.length > 0 ? runtimeConfig(options) : undefined,
  };
  return text('config.json', JSON.stringify(json, null, 2).replace(WHOLE_FLOATS, '$1.0'));
}

/** Fields that transformers takes as a float only, which JavaScript writes without a point where they are whole. */
const WHOLE_FLOATS = new RegExp(
  `^(\\s*"(?:${[
    'attn_logit_softcapping',
    'beta_fast',
    'beta_slow',
    'factor',
    'final_logit_softcapping',
    'high_freq_factor',
    'initializer_range',
    'layer_norm_eps',
    'layer_norm_epsilon',
    'low_freq_factor',
    'rms_norm_eps',
    'rope_theta',
  ].join('|')})": \\d+)(?=,?$)`,
  'gm',
);

function runtimeConfig({ dtypes, cache, externalData }: ConfigOptions): JsonObject {
  const first = (of: readonly OnnxDtype[]): OnnxDtype => of.find((dtype) => dtypes.includes(dtype))!;
  const dtype = first(PREFERRED.any);
  const wasm = first(PREFERRED.wasm);
  const halves = dtypes.filter((one) => one === 'fp16' || one === 'q4f16');
  return {
    dtype,
    ...(wasm === dtype ? {} : { device_config: { wasm: { dtype: wasm } } }),
    ...(cache && halves.length > 0
      ? { kv_cache_dtype: Object.fromEntries(halves.map((one) => [one, 'float16'])) }
      : {}),
    ...(Object.keys(externalData).length > 0 ? { use_external_data_format: externalData } : {}),
  };
}

/** generation_config.json: the model's own, else what its config says of where text begins and ends. */
export async function generationFile(folder: FileSource, config: RawConfig): Promise<SmallFile> {
  const own = await folder.open('generation_config.json');
  if (own) return { path: 'generation_config.json', bytes: await readAll(own) };
  const ids = ['bos_token_id', 'eos_token_id', 'pad_token_id'].flatMap((field) =>
    config[field] === undefined || config[field] === null ? [] : [[field, config[field]]],
  );
  return text(
    'generation_config.json',
    JSON.stringify({ ...Object.fromEntries(ids), _from_model_config: true }, null, 2),
  );
}

/** Files that only some tokenizers have, beside the two that all have. */
const FURTHER = ['special_tokens_map.json', 'added_tokens.json', 'vocab.json', 'merges.txt', 'tokenizer.model'];

/** Tokenizer and template; empty where the folder has no tokenizer. */
export async function tokenizerFiles(folder: FileSource): Promise<SmallFile[]> {
  const tokenizer = await folder.open('tokenizer.json');
  if (!tokenizer) return [];
  const files: SmallFile[] = [{ path: 'tokenizer.json', bytes: await readAll(tokenizer) }];

  const configSource = await folder.open('tokenizer_config.json');
  const parsed = configSource ? parseStrictJson(await readText(configSource)) : {};
  const config: JsonObject = isJsonObject(parsed) ? parsed : {};
  const templateSource = await folder.open('chat_template.jinja');
  const template = templateSource ? await readText(templateSource) : defaultTemplate(config.chat_template);
  // transformers.js 4.3 looks for a tokenizer's template here only; transformers prefers the file beside it
  const withTemplate = template === undefined ? config : { ...config, chat_template: template };
  files.push(text('tokenizer_config.json', JSON.stringify(withTemplate, null, 2)));
  if (template !== undefined) files.push({ path: 'chat_template.jinja', bytes: new TextEncoder().encode(template) });

  for (const path of FURTHER) {
    const source = await folder.open(path);
    if (source) files.push({ path, bytes: await readAll(source) });
  }
  return files;
}

/** One template, or the default of several by name. */
function defaultTemplate(value: unknown): string | undefined {
  if (typeof value === 'string') return value;
  if (!Array.isArray(value)) return undefined;
  const entries = value.filter(isJsonObject);
  const chosen = entries.find(({ name }) => name === 'default') ?? entries[0];
  return typeof chosen?.template === 'string' ? chosen.template : undefined;
}

function text(path: string, content: string): SmallFile {
  return { path, bytes: new TextEncoder().encode(`${content}\n`) };
}
