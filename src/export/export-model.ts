/**
 * A trained model ─▶ a folder that others open: merged, written in each precision, opened again and compared.
 *
 * Everything goes out through a sink as it is made; no file is ever whole in memory but while it is being verified. A
 * file that does not give the engine's logits fails the export, and the first operator that differs is named.
 */
import { readAll, type ByteSource, type FileSource } from '../formats/byte-source.ts';
import type { WrittenGgmlType } from '../formats/ggml-quantise.ts';
import type { GgufEntry } from '../formats/gguf-write.ts';
import type { RawConfig } from '../models/config.ts';
import type { Graph } from '../engine/graph/graph.ts';
import { InputError } from '../formats/input-error.ts';
import { isEncoder, type ModelOptions } from '../models/architectures/index.ts';
import type { DecoderOptions } from '../models/decoder.ts';
import type { Model } from '../models/model.ts';
import { tablesFor } from '../models/rotary.ts';
import { configFile, generationFile, tokenizerFiles, type SmallFile } from './folder.ts';
import { ggufFile } from './gguf/file.ts';
import { ggufShape, type GgufShape } from './gguf/metadata.ts';
import { modelfile } from './gguf/modelfile.ts';
import { ggufTokenizer } from './gguf/tokenizer.ts';
import { verifyGguf } from './gguf/verify.ts';
import { mergeAdapters, type NamedAdapter, type WeightSource } from './merge.ts';
import { modelCard, type CardFacts } from './model-card.ts';
import { decoderGraph } from './onnx/decoder-graph.ts';
import { encoderGraph } from './onnx/encoder-graph.ts';
import { encodeOnnx, type EncodedFile, type EncodeOptions } from './onnx/encode.ts';
import { lower } from './onnx/lower.ts';
import type { Flavour } from './onnx/lowering.ts';
import { precisions } from './onnx/precision/index.ts';
import type { OnnxDtype } from './onnx/precision/precision.ts';
import { safetensorsFiles } from './safetensors-files.ts';
import { verifyEncoder } from './verify/encoder.ts';
import type { HeldOut } from './verify/held-out.ts';
import { firstDifference } from './verify/locate.ts';
import type { OnnxFile, OrtModule } from './verify/session.ts';
import { TOLERANCE, verify, type ReferenceSequence, type Verification } from './verify/verify.ts';

/** Where files go, and come back from to be opened again. Paths use `/` and are relative to the folder. */
export interface ExportSink {
  write(path: string, content: Uint8Array | AsyncIterable<Uint8Array>): Promise<void>;
  open(path: string): Promise<ByteSource>;
}

export interface ExportModel {
  /** Where the tokenizer, generation defaults and licence lie. */
  readonly folder: FileSource;
  readonly config: RawConfig;
  readonly options: ModelOptions;
  /** Hub names; tied ones once. */
  readonly parameters: ReadonlyMap<string, unknown>;
  readonly weights: WeightSource;
}

export interface ExportOptions {
  readonly model: ExportModel;
  readonly adapters?: readonly NamedAdapter[];
  readonly dtypes: readonly OnnxDtype[];
  readonly flavour?: Flavour;
  readonly safetensors?: boolean;
  readonly gguf?: readonly WrittenGgmlType[];
  readonly card: Omit<CardFacts, 'parameters' | 'chat' | 'trained'> & { readonly trained?: boolean };
  readonly out: ExportSink;
  readonly ort: OrtModule;
  /** The engine's logits (of an encoder its hidden states too), with the adapters. At least two, of different length. */
  readonly reference: readonly ReferenceSequence[];
  /** Rows that nothing was trained on, and the engine's loss on them: what is written is measured on them too. */
  readonly heldOut?: HeldOut;
  readonly external?: EncodeOptions;
  readonly onProgress?: (progress: ExportProgress) => void;
}

export interface ExportProgress {
  readonly what: 'write' | 'verify';
  readonly path: string;
  readonly bytes: number;
  readonly of: number;
}

export interface ExportedFile {
  readonly path: string;
  readonly bytes: number;
  readonly dtype: string;
  readonly max_logit_difference?: number;
  readonly top1_agreement?: number;
  /** On the same held-out rows: the engine's loss, and what it is after rounding to this dtype. */
  readonly eval_loss_before?: number;
  readonly eval_loss_after?: number;
  /** Of a GGUF: the largest difference of a weight from the one that was written, over the largest of its tensor. */
  readonly max_weight_difference?: number;
}

export interface Exported {
  readonly files: readonly ExportedFile[];
  /** What the person should know: a missing tokenizer, a file too large to be verified. */
  readonly notes: readonly ExportNote[];
}

export type ExportNote =
  | { readonly kind: 'no-tokenizer'; readonly folder: string }
  | { readonly kind: 'not-verified'; readonly path: string; readonly bytes: number }
  /** llama.cpp will not split text as the model's tokenizer does. */
  | { readonly kind: 'gguf-tokenizer'; readonly trouble: string };

export function wordsOf(note: ExportNote): string {
  switch (note.kind) {
    case 'no-tokenizer':
      return `${note.folder} has no tokenizer, so the exported folder has none either`;
    case 'not-verified':
      return `${note.path} was not verified: ${(note.bytes / 1e9).toFixed(1)} GB are more than WebAssembly can open`;
    case 'gguf-tokenizer':
      return `the GGUF’s readers will not cut text as the model does: ${note.trouble}`;
  }
}

/** A written file that does not compute what the engine computes. */
export class ExportError extends Error {
  override readonly name = 'ExportError';
}

/** File names of transformers.js. */
export const ONNX_FILES: Readonly<Record<OnnxDtype, string>> = {
  fp32: 'model.onnx',
  fp16: 'model_fp16.onnx',
  q8: 'model_quantized.onnx',
  q4: 'model_q4.onnx',
  q4f16: 'model_q4f16.onnx',
};

/** The encoding at the end of the name is where the hub and other tools look for it. */
const GGUF_FILE = (type: WrittenGgmlType): string => `model-${type}.gguf`;
/** The first of these that was written: near to the model, and quick. */
const OLLAMA_TAKES: readonly WrittenGgmlType[] = ['Q8_0', 'F16', 'Q4_0', 'F32'];

/** WebAssembly addresses 4 GiB and holds weights twice while a session is made. */
const LARGEST_VERIFIED = 1.9e9;

/** Enough to tell operators apart; float64 on the CPU is slow. */
const TRACED_TOKENS = 8;

/** What goes beside the weights as the model's folder has it: its tokenizer (empty where it has none), and how it generates. */
export async function copiedFiles({
  folder,
  options,
  config,
}: Pick<Model<ModelOptions>, 'folder' | 'options' | 'config'>): Promise<
  Record<'tokenizer' | 'generation', SmallFile[]>
> {
  return {
    tokenizer: await tokenizerFiles(folder),
    generation: isEncoder(options) ? [] : [await generationFile(folder, config)],
  };
}

export async function exportModel(options: ExportOptions): Promise<Exported> {
  const { model, adapters = [], dtypes, out } = options;
  const weights = mergeAdapters(model.weights, adapters, model.options);
  const files: ExportedFile[] = [];
  const notes: ExportNote[] = [];
  const externalData: Record<string, number> = {};
  const { tokenizer, generation } = await copiedFiles(model);
  if (tokenizer.length === 0) notes.push({ kind: 'no-tokenizer', folder: model.folder.name });
  // before anything is written: what cannot be said in a GGUF is refused at once
  const gguf = options.gguf?.length ? ggufOf(model) : undefined;

  for (const dtype of dtypes) {
    const written = await writeOnnx(options, weights, dtype);
    const [main, ...external] = written;
    const bytes = written.reduce((sum, file) => sum + file.bytes, 0);
    const path = main!.path;
    if (external.length > 0) externalData[ONNX_FILES[dtype]] = external.length;
    if (bytes > LARGEST_VERIFIED) {
      notes.push({ kind: 'not-verified', path, bytes });
      files.push({ path, bytes: main!.bytes, dtype });
    } else {
      options.onProgress?.({ what: 'verify', path, bytes, of: bytes });
      const { max_logit_difference, top1_agreement, eval_loss } = await verified(options, weights, dtype, written);
      files.push({
        path,
        bytes: main!.bytes,
        dtype,
        max_logit_difference,
        top1_agreement,
        ...lossesOf(options, eval_loss),
      });
    }
    for (const file of external) files.push({ path: file.path, bytes: file.bytes, dtype });
  }

  if (options.safetensors) {
    for (const file of safetensorsFiles(weights, storedNames(model))) {
      await out.write(file.path, counted(options, file.path, file.bytes, file.data()));
      files.push({ path: file.path, bytes: file.bytes, dtype: 'F32' });
    }
  }

  if (gguf) files.push(...(await writeGgufs(options, gguf, weights, tokenizer, notes)));

  const small = [
    configFile(model.config, { dtypes, externalData, cache: !isEncoder(model.options) }),
    ...generation,
    ...tokenizer,
  ];
  for (const { path, bytes } of small) await out.write(path, bytes);

  const card = modelCard(
    {
      trained: adapters.length > 0,
      ...options.card,
      task: taskOf(model.options),
      parameters: countOf(weights, model.parameters.keys()),
      chat: tokenizer.some(({ path }) => path === 'chat_template.jinja'),
    },
    files,
    dtypes,
  );
  await out.write('README.md', new TextEncoder().encode(card));
  return { files, notes };
}

async function writeOnnx(options: ExportOptions, weights: WeightSource, dtype: OnnxDtype): Promise<EncodedFile[]> {
  const program = lower(graphOf(options.model.options), weights, {
    precision: precisions[dtype],
    flavour: options.flavour,
  });
  const files = encodeOnnx(program, ONNX_FILES[dtype], options.external);
  const written: EncodedFile[] = [];
  for (const file of files) {
    const path = `onnx/${file.path}`;
    await options.out.write(path, counted(options, path, file.bytes, file.data()));
    written.push({ ...file, path });
  }
  return written;
}

function lossesOf(
  { heldOut }: ExportOptions,
  after: number | undefined,
): Pick<ExportedFile, 'eval_loss_before' | 'eval_loss_after'> {
  return after === undefined ? {} : { eval_loss_before: heldOut!.loss, eval_loss_after: after };
}

async function verified(
  { ort, out, reference, heldOut, model, flavour }: ExportOptions,
  weights: WeightSource,
  dtype: OnnxDtype,
  written: readonly EncodedFile[],
): Promise<Verification> {
  const [main, ...external] = written;
  const file: OnnxFile = {
    model: await readAll(await out.open(main!.path)),
    external: await Promise.all(
      external.map(async ({ path }) => ({
        path: path.replace(/^.*\//, ''),
        data: await readAll(await out.open(path)),
      })),
    ),
  };
  const found = isEncoder(model.options)
    ? await verifyEncoder(ort, file, reference, heldOut?.rows)
    : await verify(ort, file, reference, turnedAlike(model.options), heldOut?.rows);
  const tolerance = TOLERANCE[dtype];
  if (found.max_logit_difference <= tolerance) return found;

  const graph = graphOf(model.options);
  const { input_ids } = reference.reduce((a, b) => (b.input_ids.length < a.input_ids.length ? b : a));
  const first = await firstDifference(
    ort,
    graph,
    weights,
    input_ids.slice(0, TRACED_TOKENS),
    tolerance,
    async (expose) => {
      const program = lower(graph, weights, { precision: precisions[dtype], flavour, expose });
      const [whole] = encodeOnnx(program, ONNX_FILES[dtype], { externalAbove: Infinity });
      return { model: await collect(whole!.data(), whole!.bytes), external: [] };
    },
  );
  const where = first
    ? `the first operator that differs is ${first.operator} (${first.difference.toExponential(1)})`
    : `no operator differs by itself; found ${found.worst === 'whole' ? 'between engine and graph' : `only ${found.worst}`}`;
  throw new ExportError(
    `${main!.path}: logits differ from the engine's by ${found.max_logit_difference.toExponential(1)} of the largest ` +
      `(allowed ${tolerance}), worst ${found.worst}; ${where}`,
  );
}

function graphOf(options: ModelOptions): Graph {
  return isEncoder(options) ? encoderGraph(options) : decoderGraph(options);
}

function taskOf(options: ModelOptions): CardFacts['task'] {
  if (!isEncoder(options)) return 'text-generation';
  return options.head ? 'fill-mask' : 'feature-extraction';
}

/** Whether positions turn by the same numbers in sequences of so many tokens. */
function turnedAlike({ rotary }: DecoderOptions): (tokens: number, others: number) => boolean {
  return (tokens, others) => !rotary || tablesFor(rotary, tokens) === tablesFor(rotary, others);
}

/** What the engine computes with; of an encoder also the pooler, which it does not compute and others may want. */
function storedNames({ options, parameters, weights }: ExportModel): string[] {
  const names = [...parameters.keys()];
  if (!isEncoder(options)) return names;
  return [...names, ...[...weights.tensors.keys()].filter((name) => /^(\w+\.)?pooler\./.test(name))];
}

export interface GgufModel {
  readonly shape: GgufShape;
  readonly options: DecoderOptions;
}

/** What a GGUF says of the model; one that has no such form is refused. */
export function ggufOf({ config, options, folder }: Pick<ExportModel, 'config' | 'options' | 'folder'>): GgufModel {
  if (isEncoder(options)) {
    const what = `${String(config.model_type)} is an encoder, and those are not written as GGUF`;
    throw new InputError(folder.name, 'config.json: model_type', what, 'no GGUF');
  }
  return { shape: ggufShape(config, options, folder.name), options };
}

/** Each kind asked for, opened again; and what Ollama wants to know of the best of the small ones. */
async function writeGgufs(
  options: ExportOptions,
  { shape, options: decoder }: GgufModel,
  weights: WeightSource,
  tokenizer: readonly SmallFile[],
  notes: ExportNote[],
): Promise<ExportedFile[]> {
  const { model, out, card } = options;
  const types = options.gguf!;
  const { entries, trouble } = ggufTokenizer(tokenizer, model.config, decoder.vocab_size);
  if (trouble !== undefined) notes.push({ kind: 'gguf-tokenizer', trouble });
  const general: GgufEntry[] = [
    { key: 'general.type', type: 'string', value: 'model' },
    { key: 'general.name', type: 'string', value: card.title },
    ...(card.license === undefined ? [] : [{ key: 'general.license', type: 'string', value: card.license } as const]),
  ];
  const files: ExportedFile[] = [];
  for (const type of types) {
    const path = GGUF_FILE(type);
    const names = [...model.parameters.keys()];
    const file = ggufFile({ shape, entries: [...general, ...entries], weights, names }, type);
    await out.write(path, counted(options, path, file.bytes, file.data()));
    const source = await out.open(path);
    options.onProgress?.({ what: 'verify', path, bytes: source.size, of: source.size });
    const { max_weight_difference, readF32 } = await verifyGguf(source, decoder, weights, names).catch(
      (error: Error) => {
        throw new ExportError(`${path}: read back it is not what was written: ${error.message}`);
      },
    );
    const losses = lossesOf(options, await options.heldOut?.lossWith?.(readF32));
    files.push({ path, bytes: source.size, dtype: type, max_weight_difference, ...losses });
  }
  const forOllama = OLLAMA_TAKES.find((type) => types.includes(type))!;
  const text = modelfile(GGUF_FILE(forOllama), tokenizer);
  await out.write('Modelfile', new TextEncoder().encode(text));
  return files;
}

/** The same pieces, reported as they pass. */
async function* counted(
  { onProgress }: ExportOptions,
  path: string,
  of: number,
  pieces: AsyncIterable<Uint8Array> | Uint8Array,
): AsyncGenerator<Uint8Array> {
  let bytes = 0;
  for await (const piece of pieces instanceof Uint8Array ? [pieces] : pieces) {
    yield piece;
    bytes += piece.length;
    onProgress?.({ what: 'write', path, bytes, of });
  }
}

export async function collect(pieces: AsyncIterable<Uint8Array>, bytes: number): Promise<Uint8Array> {
  const whole = new Uint8Array(bytes);
  let at = 0;
  for await (const piece of pieces) {
    whole.set(piece, at);
    at += piece.length;
  }
  if (at !== bytes) throw new Error(`${at} bytes, planned ${bytes}`);
  return whole;
}

function countOf(weights: WeightSource, names: Iterable<string>): number {
  let total = 0;
  for (const name of names) total += weights.tensors.get(name)!.shape.reduce((product, size) => product * size, 1);
  return total;
}
