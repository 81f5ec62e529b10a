/**
 * `npm start -- export`: merges adapters and writes a model folder without training, verified as a run's: every ONNX file is
 * opened again and compared with the engine, and with --data its loss on these rows is told before and after rounding. The folder
 * appears whole or not at all.
 */
import { existsSync } from 'node:fs';
import { mkdir, readdir, rename, rm } from 'node:fs/promises';
import path from 'node:path';
import * as ort from 'onnxruntime-web';
import * as v from 'valibot';
import { prepareData } from '../data/prepare.ts';
import { Random } from '../data/random.ts';
import { Device, type DeviceTensor } from '../engine/run/device.ts';
import { exportModel, ExportError, wordsOf, type Exported, type ExportOptions } from '../export/export-model.ts';
import { mergeAdapters, type NamedAdapter } from '../export/merge.ts';
import { licenseOf } from '../export/model-card.ts';
import { precisions } from '../export/onnx/precision/index.ts';
import type { OnnxDtype } from '../export/onnx/precision/precision.ts';
import { AHEAD, heldOutRows, lossBy, type HeldOut, type HeldOutRow } from '../export/verify/held-out.ts';
import type { ReferenceSequence } from '../export/verify/verify.ts';
import { withTokenizerOfGguf } from '../formats/gguf-tokenizer.ts';
import { InputError } from '../formats/input-error.ts';
import { readAdapter } from '../formats/peft.ts';
import { isEncoder, type ModelOptions } from '../models/architectures/index.ts';
import type { DecoderAdapter } from '../models/decoder.ts';
import { encodedSequences } from '../models/encoder-outputs.ts';
import { sequenceLogits } from '../models/logits.ts';
import { adapterParameters, openAnyModel, type Model } from '../models/model.ts';
import { loadAdapter, loadParameters } from '../models/on-device.ts';
import { loadTokenizer } from '../models/tokenizer.ts';
import { fitted } from '../models/untie.ts';
import { data as dataSettings } from '../recipe/schema.ts';
import { Failure, say, type Command, type Values } from './command.ts';
import { needed, text } from './flags.ts';
import { nodeFile, nodeFolder, nodeModel } from './node-files.ts';
import { nodeGpu } from './node-gpu.ts';
import { writeFileWhole } from './write-file.ts';

const usage =
  'export MODEL --out DIR [--adapter DIR]… [--data FILE] [--onnx fp32,fp16,q8,q4,q4f16] [--external-data] [--flavour ort|standard] [--safetensors] [--gguf F32,F16,Q8_0,Q4_0]';
const DTYPES = Object.keys(precisions) as OnnxDtype[];
const GGUF_TYPES = ['F32', 'F16', 'Q8_0', 'Q4_0'] as const;
/** Tokens of the sequences that files are compared on. */
const LENGTHS = [17, 6];

export const command: Command = {
  usage,
  flags: {
    out: { type: 'string' },
    adapter: { type: 'string', multiple: true },
    data: { type: 'string' },
    onnx: { type: 'string' },
    flavour: { type: 'string' },
    'external-data': { type: 'boolean' },
    safetensors: { type: 'boolean' },
    gguf: { type: 'string' },
  },
  positionals: [1, 1],
  run,
};

async function run([modelFolder]: string[], values: Values): Promise<number> {
  const out = path.resolve(needed(values, 'out', usage));
  const dtypes = list(text(values, 'onnx') ?? 'fp32,fp16,q8', 'onnx', DTYPES);
  const [flavour] = list(text(values, 'flavour') ?? 'ort', 'flavour', ['ort', 'standard'] as const);
  const gguf = list(text(values, 'gguf') ?? '', 'gguf', GGUF_TYPES);
  if (existsSync(out) && (await readdir(out)).length > 0) {
    throw new InputError(out, '', 'is not empty', 'an empty or new folder');
  }
  let model = await openAnyModel(withTokenizerOfGguf(nodeModel(modelFolder!)));
  const adapters: NamedAdapter[] = [];
  for (const name of (values.adapter ?? []) as string[]) {
    const both = await fitted(model, await readAdapter(nodeFolder(name)), name);
    model = both.model;
    adapters.push({ name, adapter: both.adapter });
  }
  const data = text(values, 'data');
  const rows = data === undefined ? [] : await rowsOf(model, data);
  const device = await Device.create(await nodeGpu());
  const engine = await engineAnswers(device, model, adapters, rows, dtypes.length > 0);

  // Beside the folder, and renamed when it is whole.
  const aside = `${out}.${process.pid}.part`;
  try {
    await mkdir(aside, { recursive: true });
    const exported = await exportModel({
      model,
      adapters,
      dtypes,
      flavour,
      external: values['external-data'] === true ? { externalAbove: 0 } : undefined,
      safetensors: values.safetensors === true,
      gguf,
      card: { title: path.basename(out), distilled: false, license: await licenseOf(model.folder) },
      out: {
        write: (name, content) =>
          writeFileWhole(path.join(aside, name), content instanceof Uint8Array ? [content] : content),
        open: (name) => nodeFile(path.join(aside, name)),
      },
      ort,
      ...engine,
    });
    await rm(out, { recursive: true, force: true });
    await rename(aside, out);
    tell(out, exported);
  } catch (error) {
    await rm(aside, { recursive: true, force: true });
    throw error instanceof ExportError ? new Failure(error.message) : error;
  }
  return 0;
}

/** Rows that files are measured on, as the model's tokenizer and template write them. */
async function rowsOf(model: Model<ModelOptions>, file: string): Promise<HeldOutRow[]> {
  const { options } = model;
  const source = await nodeFile(path.resolve(file));
  const settings = v.parse(dataSettings, { source: source.name, eval_fraction: 0, shuffle: false });
  const encoder = isEncoder(options) ? options : undefined;
  const { train } = await prepareData(source, settings, await loadTokenizer(model.folder), 1, { encoder });
  const rows = heldOutRows(train, encoder ? AHEAD.encoder : AHEAD.decoder);
  if (rows.length > 0) return rows;
  throw new InputError(source.name, '', 'has no row with something to guess', 'rows of at least two tokens');
}

/**
 * Logits of random tokens, and the loss on rows: with one adapter beside the base, so that the merge is compared too; else on
 * merged weights.
 */
async function engineAnswers(
  device: Device,
  model: Model<ModelOptions>,
  adapters: readonly NamedAdapter[],
  rows: readonly HeldOutRow[],
  compared: boolean,
): Promise<Pick<ExportOptions, 'reference' | 'heldOut'>> {
  if (!compared && rows.length === 0) return { reference: [] };
  const random = new Random(1, 0);
  const sequences = LENGTHS.map((length) => Array.from({ length }, () => random.below(model.options.vocab_size)));
  const { options, parameters } = model;
  const [only] = adapters;
  const beside = adapters.length === 1 && only !== undefined && isServed(options, only) ? only : undefined;
  const merged = beside ? model.weights : { ...model.weights, ...mergeAdapters(model.weights, adapters, options) };
  const loaded = (weights: Model['weights']): Promise<Map<string, DeviceTensor>> =>
    loadParameters(device, { parameters, weights });
  const tensors = await loaded(merged as Model['weights']);
  if (beside) loadAdapter(device, options, beside.adapter, beside.name, tensors);
  const adapter = beside && { settings: beside.adapter.config, trainable: false };
  const answers = (
    asked: readonly (readonly number[])[],
    on: ReadonlyMap<string, DeviceTensor>,
    by?: DecoderAdapter,
  ): Promise<ReferenceSequence[]> =>
    isEncoder(options)
      ? encodedSequences(device, options, on, asked, by)
      : sequenceLogits(device, options, on, asked, by);
  const reference = compared ? await answers(sequences, tensors, adapter) : [];
  if (rows.length === 0) return { reference };
  const lossOf = (on: ReadonlyMap<string, DeviceTensor>, by?: DecoderAdapter): Promise<number> =>
    lossBy(
      rows,
      isEncoder(options) ? AHEAD.encoder : AHEAD.decoder,
      async (row) => (await answers([row], on, by))[0]!.logits,
    );
  const lossWith: HeldOut['lossWith'] = async (readF32) => {
    const written = await loaded({ ...model.weights, read: readF32, readF32 });
    try {
      return await lossOf(written);
    } finally {
      for (const tensor of written.values()) device.freeTensor(tensor);
    }
  };
  return { reference, heldOut: { rows, loss: await lossOf(tensors, adapter), lossWith } };
}

/** Whether the engine can put all of it on the model. */
function isServed(options: ModelOptions, { adapter: { config, tensors } }: NamedAdapter): boolean {
  const served = adapterParameters(options, config);
  return [...tensors.keys()].every((name) => served.has(name));
}

function tell(out: string, { files, notes }: Exported): void {
  for (const file of files) {
    const parts = [`${file.path}: ${file.dtype}, ${(file.bytes / 1e6).toFixed(1)} MB`];
    const { max_logit_difference, top1_agreement, max_weight_difference, eval_loss_before, eval_loss_after } = file;
    if (max_logit_difference !== undefined) parts.push(`largest difference ${max_logit_difference.toExponential(1)}`);
    if (top1_agreement !== undefined) parts.push(`same first token ${(100 * top1_agreement).toFixed(0)}%`);
    if (max_weight_difference !== undefined) {
      parts.push(`largest difference of a weight ${max_weight_difference.toExponential(1)}`);
    }
    if (eval_loss_before !== undefined && eval_loss_after !== undefined) {
      parts.push(`loss on your rows ${eval_loss_after.toFixed(4)}, before rounding ${eval_loss_before.toFixed(4)}`);
    }
    say(parts.join(', '));
  }
  for (const note of notes) say(wordsOf(note));
  process.stdout.write(`${out}\n`);
}

/** A comma-separated flag whose words are known. */
function list<T extends string>(given: string, flag: string, known: readonly T[]): T[] {
  const words = given.split(',').filter((word) => word !== '');
  for (const word of words) {
    if (!known.includes(word as T)) {
      throw new InputError('command line', `--${flag}`, `${word} is not known`, known.join(', '));
    }
  }
  return words as T[];
}
