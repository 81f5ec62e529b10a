/**
 * Step 6: what others open: the merged model in each precision asked for, each file opened again and compared; the adapter
 * alone; through the run's outlet, as it is made.
 */
import type { Device } from '../../engine/run/device.ts';
import {
  copiedFiles,
  exportModel,
  wordsOf,
  type ExportOptions,
  type ExportProgress,
} from '../../export/export-model.ts';
import type { NamedAdapter } from '../../export/merge.ts';
import { licenseOf } from '../../export/model-card.ts';
import type { OnnxDtype } from '../../export/onnx/precision/precision.ts';
import { exportFile } from '../../formats/logit-cache-file.ts';
import type { LogitCache } from '../../formats/logit-cache.ts';
import { writeAdapter, type AdapterTensor } from '../../formats/peft.ts';
import { AHEAD, heldOutRows, lossBy, type HeldOut } from '../../export/verify/held-out.ts';
import type { ReferenceSequence } from '../../export/verify/verify.ts';
import { isEncoder, type ModelOptions } from '../../models/architectures/index.ts';
import { encodedSequences } from '../../models/encoder-outputs.ts';
import { sequenceLogits } from '../../models/logits.ts';
import { loadParameters } from '../../models/on-device.ts';
import { stored } from '../../models/untie.ts';
import type { ActiveRun } from '../active-run.ts';
import { plainName } from '../hub.ts';
import type { Report } from '../protocol.ts';
import type { RunData } from './data.ts';
import { studentOnDevice, withTrained, type DeviceModel } from './device-model.ts';
import type { Student } from './student.ts';

/** Where a run whose teacher.kind is "cache" finds what this run's teacher said. */
const CACHE = 'teacher.cache';
/** Tokens of the sequences that files are compared on. */
const COMPARED = [24, 13];

/**
 * Reads, of the student's folder, what the export copies from it beside the weights: when the training ends its source may
 * be gone, and what was read once is kept. What cannot be read is said before hours of work.
 */
export async function readCopied({ recipe }: ActiveRun, { model }: Student): Promise<void> {
  const { onnx, safetensors, gguf } = recipe.export;
  if (onnx.length === 0 && !safetensors && gguf.length === 0) return;
  await copiedFiles(model);
  await licenseOf(model.folder);
}

export async function exportStudent(
  run: ActiveRun,
  data: RunData,
  student: Student,
  trained: ReadonlyMap<string, Float32Array<ArrayBuffer>>,
  cache: LogitCache | undefined,
): Promise<void> {
  const { outlet, recipe } = run;
  const wanted = recipe.export;
  const files: Report['export']['files'] = [];
  const named = student.adapter ? trainedAdapter(student, trained) : undefined;
  if (named && wanted.adapter) {
    const { config, tensors } = stored(student.model, named.adapter);
    for (const { path, bytes } of writeAdapter(config, tensors)) {
      await outlet.write(`adapter/${path}`, bytes);
      files.push({ path: `adapter/${path}`, bytes: bytes.length, dtype: path.endsWith('.json') ? 'json' : 'F32' });
    }
  }
  if (wanted.onnx.length > 0 || wanted.safetensors || wanted.gguf.length > 0) {
    files.push(...(await writeModel(run, data, student, trained, named)));
  }
  if (cache && wanted.logit_cache) {
    let bytes = 0;
    const counted = async function* () {
      for await (const piece of exportFile(cache)) {
        bytes += piece.length;
        yield piece;
      }
    };
    await outlet.write(CACHE, counted());
    files.push({ path: CACHE, bytes, dtype: 'cache' });
  }
  await run.find('export', { files, seconds: run.seconds('export') });
}

async function writeModel(
  run: ActiveRun,
  data: RunData,
  student: Student,
  trained: ReadonlyMap<string, Float32Array<ArrayBuffer>>,
  named: NamedAdapter | undefined,
): Promise<Report['export']['files']> {
  const { outlet, recipe } = run;
  const { teacher } = recipe;
  const rounded = recipe.export.onnx.length + recipe.export.gguf.length > 0;
  const engine = rounded ? await engineLogits(run, data, student, trained) : undefined;
  const model = named ? student.model : withTrained(student.model, trained);
  const dtypes = recipe.export.onnx as readonly OnnxDtype[];
  const expected = dtypes.length + recipe.export.gguf.length + (recipe.export.safetensors ? 1 : 0);
  const paths: string[] = [];
  const exported = await exportModel({
    model,
    adapters: named ? [named] : [],
    dtypes,
    safetensors: recipe.export.safetensors,
    gguf: recipe.export.gguf,
    flavour: recipe.export.flavour,
    card: {
      title: recipe.name,
      base_model: plainName(recipe.student.model),
      trained: true,
      distilled: teacher.kind !== 'none',
      license: await licenseOf(student.model.folder),
      teacher: teacher.kind === 'engine' || teacher.kind === 'endpoint' ? plainName(teacher.model) : undefined,
      datasets: [plainName(recipe.data.source)],
      vocabulary: run.facts.found.data?.vocabulary,
      figures: figuresOf(run),
      recipe: JSON.stringify(recipe, null, 2),
    },
    out: {
      write: (path, content) => outlet.write(`model/${path}`, content),
      async open(path) {
        const source = await outlet.open(`model/${path}`);
        if (!source) throw new Error(`model/${path} was written, and is not there`);
        return source;
      },
    },
    ort: await run.host.ort(),
    reference: engine?.reference ?? [],
    heldOut: engine?.heldOut,
    external: recipe.export.external_data ? { externalAbove: 0 } : undefined,
    onProgress: (progress) => tell(run, progress, paths, expected),
  });
  for (const note of exported.notes) {
    run.emit({ kind: 'fact', step: 'export', facts: { [note.kind]: wordsOf(note) } });
  }
  return exported.files.map((file) => ({ ...file, path: `model/${file.path}` }));
}

/** What ONNX files are compared with. */
async function engineLogits(
  run: ActiveRun,
  data: RunData,
  student: Student,
  trained: ReadonlyMap<string, Float32Array<ArrayBuffer>>,
): Promise<Pick<ExportOptions, 'reference' | 'heldOut'>> {
  const device = await run.device();
  const on = await studentOnDevice(device, student, trained);
  try {
    const { options } = on;
    const sequences = sequencesOf(data);
    const reference = await answers(device, options, on, sequences);
    const ahead = isEncoder(options) ? AHEAD.encoder : AHEAD.decoder;
    const rows = heldOutRows(data.prepared.eval, ahead);
    if (rows.length === 0) return { reference };
    const lossOf = (by: ModelOptions, on: Pick<DeviceModel, 'tensors' | 'adapter'>): Promise<number> =>
      lossBy(rows, ahead, async (row) => (await answers(device, by, on, [row]))[0]!.logits);
    const loss = await lossOf(options, on);
    const lossWith: HeldOut['lossWith'] = async (readF32) => {
      const { parameters, weights } = student.model;
      const written = await loadParameters(device, { parameters, weights: { ...weights, read: readF32, readF32 } });
      try {
        return await lossOf({ ...options, held: undefined }, { tensors: written });
      } finally {
        for (const tensor of written.values()) device.freeTensor(tensor);
      }
    };
    return { reference, heldOut: { rows, loss, lossWith } };
  } finally {
    on.free();
  }
}

function answers(
  device: Device,
  options: ModelOptions,
  { tensors, adapter }: Pick<DeviceModel, 'tensors' | 'adapter'>,
  sequences: readonly (readonly number[])[],
): Promise<ReferenceSequence[]> {
  return isEncoder(options)
    ? encodedSequences(device, options, tensors, sequences, adapter)
    : sequenceLogits(device, options, tensors, sequences, adapter);
}

/** What was trained, as PEFT names it. */
function trainedAdapter(student: Student, trained: ReadonlyMap<string, Float32Array<ArrayBuffer>>): NamedAdapter {
  const tensors = new Map<string, AdapterTensor>();
  for (const [name, { shape }] of student.adapter!.tensors) tensors.set(name, { shape, data: trained.get(name)! });
  return { name: 'adapter', adapter: { config: student.adapter!.config, tensors } };
}

/** Of the run's own rows, of different lengths. */
function sequencesOf({ prepared }: RunData): number[][] {
  const rows = [...prepared.eval, ...prepared.train];
  return COMPARED.map((length, i) => {
    const ids = rows[i % rows.length]!.input_ids;
    return [...ids.slice(0, Math.max(2, Math.min(length, ids.length - i)))];
  });
}

function figuresOf(run: ActiveRun): { name: string; value: string }[] {
  const percent = (share: number): string => `${(100 * share).toFixed(1)}%`;
  return (run.facts.found.evaluate?.tasks ?? []).flatMap(({ name, metric, student }) => {
    if (!student) return [];
    const { value, low, high, rows } = student;
    return [
      {
        name: `${metric} on ${rows} rows of ${name}`,
        value: `${percent(value)} (${percent(low)} to ${percent(high)})`,
      },
    ];
  });
}

function tell(run: ActiveRun, { path, bytes, of }: ExportProgress, paths: string[], files: number): void {
  if (!paths.includes(path)) paths.push(path);
  const share = of > 0 ? bytes / of : 1;
  const done = Math.min(files, paths.length - 1 + share);
  run.progress('export', Math.floor(done * 100) / 100, Math.max(files, paths.length), 'files');
}
