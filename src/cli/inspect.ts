/**
 * `npm start -- inspect PATH`: what Stillroom sees in a folder or file, read as a run would read it, without running anything.
 * What cannot be used is said with the same words.
 */
import { stat } from 'node:fs/promises';
import path from 'node:path';
import { withTokenizerOfGguf } from '../formats/gguf-tokenizer.ts';
import { InputError } from '../formats/input-error.ts';
import { readAdapter } from '../formats/peft.ts';
import { isJsonObject } from '../formats/strict-json.ts';
import { openCacheFile } from '../formats/logit-cache-file.ts';
import { cacheMagic } from '../formats/logit-cache-format.ts';
import { inspectDataset } from '../data/dataset.ts';
import { readText, type ByteSource, type FileSource } from '../formats/byte-source.ts';
import { summarizeOnnx } from '../formats/onnx-summary.ts';
import { openWeights, type Weights } from '../formats/weights.ts';
import type { ModelOptions } from '../models/architectures/index.ts';
import { openAnyModel, type Model } from '../models/model.ts';
import { loadTokenizer } from '../models/tokenizer.ts';
import { parseRecipeText } from '../recipe/parse.ts';
import type { Command, Values } from './command.ts';
import { nodeFile, nodeFolder } from './node-files.ts';

export const command: Command = {
  usage: 'inspect PATH [--json]',
  flags: { json: { type: 'boolean' } },
  positionals: [1, 1],
  run,
};

/** Characters of a sample that are shown. */
const LINE = 160;
const LARGEST_RECIPE = 1 << 20;

/** What is told; `kind` first. */
type Seen = { readonly kind: string } & Readonly<Record<string, unknown>>;

async function run([place]: string[], values: Values): Promise<number> {
  const seen = await inspect(place!);
  process.stdout.write(values.json === true ? `${JSON.stringify(seen)}\n` : inWords(seen));
  return 0;
}

export async function inspect(place: string): Promise<Seen> {
  const status = await stat(place).catch(() => undefined);
  if (status === undefined) throw new InputError(place, '', 'there is no such file or folder', 'a path');
  if (status.isDirectory()) return inspectFolder(nodeFolder(place));
  const file = await nodeFile(place);
  switch (path.extname(place).toLowerCase()) {
    case '.safetensors':
    case '.gguf': {
      const folder = nodeFolder(path.dirname(place), path.dirname(place));
      const weights = await openWeights(folder, { file: path.basename(place) });
      return { kind: 'weights', format: weights.kind, ...aboutWeights(weights) };
    }
    case '.onnx':
      return { kind: 'onnx', ...(await summarizeOnnx(file)), bytes: file.size };
    case '.json':
      if (await isRecipe(file)) return { kind: 'recipe', recipe: parseRecipeText(await readText(file), place) };
  }
  if (await isCache(file)) return inspectCache(file);
  return { kind: 'dataset', ...(await inspectDataset(file)) };
}

async function inspectFolder(folder: FileSource): Promise<Seen> {
  const names = (await folder.list?.()) ?? [];
  if (names.includes('adapter_config.json')) return inspectAdapter(folder);
  if (names.some((name) => /^[^/]+\.(safetensors|gguf|index\.json)$/.test(name)) || names.includes('config.json')) {
    return inspectModel(folder);
  }
  throw new InputError(
    folder.name,
    '',
    'holds neither a model nor an adapter',
    'config.json and weights, or a PEFT adapter',
  );
}

async function inspectModel(folder: FileSource): Promise<Seen> {
  const weights = await openWeights(folder);
  // Opening checks every parameter and shape. What the engine can't run is a model all the same.
  let served: Model<ModelOptions> | InputError;
  try {
    served = await openAnyModel(folder);
  } catch (error) {
    if (!(error instanceof InputError)) throw error;
    served = error;
  }
  const options = served instanceof InputError ? undefined : served.options;
  const whole = withTokenizerOfGguf(folder);
  const tokenizer = (await whole.open('tokenizer.json'))
    ? await loadTokenizer(whole, { vocab_size: options?.vocab_size })
    : undefined;
  return {
    kind: 'model',
    format: weights.kind,
    ...aboutWeights(weights),
    options,
    problem: served instanceof InputError ? served.message : undefined,
    tokenizer: tokenizer && {
      vocab_size: tokenizer.vocab_size,
      chat_template: tokenizer.chat_template !== undefined,
      sha256: tokenizer.hash,
    },
  };
}

function aboutWeights(weights: Weights): Record<string, unknown> {
  const dtypes: Record<string, number> = {};
  let parameters = 0;
  for (const { dtype, shape } of weights.tensors.values()) {
    dtypes[dtype] = (dtypes[dtype] ?? 0) + 1;
    parameters += shape.reduce((product, dim) => product * dim, 1);
  }
  const { model_type } = weights.config ?? {};
  return { model_type, parameters, tensors: weights.tensors.size, dtypes, bytes: weights.bytes, files: weights.files };
}

async function inspectAdapter(folder: FileSource): Promise<Seen> {
  const { config, tensors } = await readAdapter(folder);
  const parameters = [...tensors.values()].reduce((sum, { data }) => sum + data.length, 0);
  const { r, lora_alpha, target_modules, use_rslora, use_dora, modules_to_save, bias, base_model_name_or_path } =
    config;
  const about = { r, lora_alpha, target_modules, use_rslora, use_dora, modules_to_save, bias, base_model_name_or_path };
  return { kind: 'adapter', ...about, parameters, tensors: tensors.size };
}

/** A recipe is small and says whom it teaches; any other JSON is rows. */
async function isRecipe(file: ByteSource): Promise<boolean> {
  if (file.size > LARGEST_RECIPE) return false;
  try {
    const json: unknown = JSON.parse(await readText(file));
    return isJsonObject(json) && 'student' in json;
  } catch {
    return false;
  }
}

async function isCache(file: ByteSource): Promise<boolean> {
  if (file.size < cacheMagic.length) return false;
  return new TextDecoder('latin1').decode(await file.read(0, cacheMagic.length)) === cacheMagic;
}

async function inspectCache(file: ByteSource): Promise<Seen> {
  const cache = await openCacheFile(file);
  const { header, rows, positions, bytes } = cache;
  // of what was drawn by chance the mass says nothing
  const mass_kept =
    header.entries === 'topk'
      ? Object.fromEntries(header.temperatures.map((at) => [at, cache.massKept(at)]))
      : undefined;
  return { kind: 'cache', ...header, rows, positions, bytes, mass_kept };
}

/** A line a fact; what has parts is indented, a list of such things has a line for each. */
function inWords(seen: Seen): string {
  const lines: string[] = [];
  const tell = (name: string, value: unknown, indent: string): void => {
    if (value === undefined || value === null) return;
    if (Array.isArray(value)) {
      if (value.every((one) => typeof one !== 'object')) lines.push(`${indent}${name}: ${value.join(', ') || 'none'}`);
      else lines.push(`${indent}${name}:`, ...value.map((one) => `${indent}  ${cut(JSON.stringify(one))}`));
    } else if (typeof value === 'object') {
      lines.push(`${indent}${name}:`);
      for (const [key, part] of Object.entries(value)) tell(key, part, `${indent}  `);
    } else {
      lines.push(`${indent}${name}: ${typeof value === 'number' ? grouped(value) : String(value)}`);
    }
  };
  for (const [name, value] of Object.entries(seen)) tell(name, value, '');
  return `${lines.join('\n')}\n`;
}

const cut = (text: string): string => (text.length > LINE ? `${text.slice(0, LINE)}…` : text);
const grouped = (value: number): string => (Number.isInteger(value) ? value.toLocaleString('en') : String(value));
