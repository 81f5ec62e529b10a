/**
 * `npm start -- export`: merges adapters and writes a model folder without training, verified as a run's: every ONNX file is
 * opened again and compared with the engine. The folder appears whole or not at all.
 */
import { existsSync } from 'node:fs';
import { mkdir, readdir, rename, rm } from 'node:fs/promises';
import path from 'node:path';
import * as ort from 'onnxruntime-web';
import { Random } from '../data/random.ts';
import { Device, type DeviceTensor } from '../engine/run/device.ts';
import { exportModel, ExportError, wordsOf, type Exported } from '../export/export-model.ts';
import { mergeAdapters, type NamedAdapter } from '../export/merge.ts';
import { licenseOf } from '../export/model-card.ts';
import { precisions } from '../export/onnx/precision/index.ts';
import type { OnnxDtype } from '../export/onnx/precision/precision.ts';
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
import { fitted } from '../models/untie.ts';
import { Failure, say, type Command, type Values } from './command.ts';
import { needed, text } from './flags.ts';
import { nodeFile, nodeFolder, nodeModel } from './node-files.ts';
import { nodeGpu } from './node-gpu.ts';
import { writeFileWhole } from './write-file.ts';

const usage =
  'export MODEL --out DIR [--adapter DIR]… [--onnx fp32,fp16,q8,q4,q4f16] [--external-data] [--flavour ort|standard] [--safetensors] [--gguf F32,F16,Q8_0,Q4_0]';
const DTYPES = Object.keys(precisions) as OnnxDtype[];
const GGUF_TYPES = ['F32', 'F16', 'Q8_0', 'Q4_0'] as const;
/** Tokens of the sequences that files are compared on. */
const LENGTHS = [17, 6];

export const command: Command = {
  usage,
  flags: {
    out: { type: 'string' },
    adapter: { type: 'string', multiple: true },
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
  const device = await Device.create(await nodeGpu());
  const reference = dtypes.length > 0 ? await engineLogits(device, model, adapters) : [];

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
      reference,
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

/** On random tokens: with one adapter beside the base, so that the merge is compared too; else on merged weights. */
async function engineLogits(
  device: Device,
  model: Model<ModelOptions>,
  adapters: readonly NamedAdapter[],
): Promise<ReferenceSequence[]> {
  const random = new Random(1, 0);
  const sequences = LENGTHS.map((length) => Array.from({ length }, () => random.below(model.options.vocab_size)));
  const { options } = model;
  const answers = (tensors: ReadonlyMap<string, DeviceTensor>, adapter?: DecoderAdapter) =>
    isEncoder(options)
      ? encodedSequences(device, options, tensors, sequences, adapter)
      : sequenceLogits(device, options, tensors, sequences, adapter);
  const [only] = adapters;
  if (adapters.length === 1 && only !== undefined && isServed(options, only)) {
    const tensors = await loadParameters(device, model);
    loadAdapter(device, options, only.adapter, only.name, tensors);
    return answers(tensors, { settings: only.adapter.config, trainable: false });
  }
  const weights = { ...model.weights, ...mergeAdapters(model.weights, adapters, model.options) };
  const tensors = await loadParameters(device, { parameters: model.parameters, weights: weights as Model['weights'] });
  return answers(tensors);
}

/** Whether the engine can put all of it on the model. */
function isServed(options: ModelOptions, { adapter: { config, tensors } }: NamedAdapter): boolean {
  const served = adapterParameters(options, config);
  return [...tensors.keys()].every((name) => served.has(name));
}

function tell(out: string, { files, notes }: Exported): void {
  for (const { path: name, bytes, dtype, max_logit_difference, top1_agreement, max_weight_difference } of files) {
    const parts = [`${name}: ${dtype}, ${(bytes / 1e6).toFixed(1)} MB`];
    if (max_logit_difference !== undefined) parts.push(`largest difference ${max_logit_difference.toExponential(1)}`);
    if (top1_agreement !== undefined) parts.push(`same first token ${(100 * top1_agreement).toFixed(0)}%`);
    if (max_weight_difference !== undefined) {
      parts.push(`largest difference of a weight ${max_weight_difference.toExponential(1)}`);
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
