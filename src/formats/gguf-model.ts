/**
 * A GGUF seen as the model that it was made from: tensors under their hub names, in the hub's order of rows, and a
 * config.json made from the metadata. It undoes what the converter did: rows of llama's q and k permuted for interleaved
 * rotary, Gemma's norms stored as 1 + w, GPT-2's Conv1D weights transposed.
 */
import { architectures, hubName, Metadata, ropeScaling, ropeTensors, type Change } from './gguf-architectures.ts';
import type { GgufFile, GgufTensorInfo } from './gguf.ts';
import { InputError } from './input-error.ts';
import type { JsonObject } from './strict-json.ts';
import { findTensor, viewTensor, type TensorFile } from './tensor-file.ts';

export interface GgufModel extends TensorFile {
  /** Under hub names, with what was done to each on its way into the file. */
  readonly tensors: ReadonlyMap<string, GgufTensorInfo & { readonly change: Change }>;
  /** As the hub's config.json would say it. */
  readonly config: JsonObject;
}

export async function modelFromGguf(file: GgufFile): Promise<GgufModel> {
  const architecture = Object.hasOwn(architectures, file.architecture) ? architectures[file.architecture] : undefined;
  if (architecture === undefined) {
    const known = Object.keys(architectures).join(', ');
    throw new InputError(file.name, 'metadata general.architecture', `it is ${file.architecture}`, known);
  }
  const values = new Metadata(file);
  const tensors = new Map<string, GgufTensorInfo & { ggmlName: string; change: Change }>();
  for (const [ggmlName, info] of file.tensors) {
    if (ropeTensors.has(ggmlName)) continue;
    const name = hubName(architecture, ggmlName);
    if (name === undefined) {
      throw new InputError(file.name, `tensor ${ggmlName}`, 'its name is unknown', `the names of ${file.architecture}`);
    }
    const change = architecture.change(ggmlName, values);
    if (change?.kind === 'permuted' && (info.shape[0] ?? 0) % (2 * change.heads) !== 0) {
      const allowed = `a multiple of twice its ${change.heads} heads`;
      throw new InputError(file.name, `tensor ${ggmlName}`, `it has ${info.shape[0]} rows`, allowed);
    }
    const shape = change?.kind === 'transposed' ? info.shape.toReversed() : info.shape;
    tensors.set(name, { ...info, shape, ggmlName, change });
  }
  const config = { ...architecture.config(values, file), ...(await ropeScaling(values, file)) };
  return {
    name: file.name,
    metadata: file.metadata,
    tensors,
    config,
    async read(name) {
      const { ggmlName, change, dtype, shape } = findTensor(file.name, tensors, name);
      const data = await file.read(ggmlName);
      if (change === undefined) return data;
      if (change.kind !== 'permuted') {
        throw new InputError(file.name, `tensor ${ggmlName}`, `the file holds it ${change.kind}`, 'to be read as f32');
      }
      // A row is whole blocks, so rows can be put in order as they are.
      return viewTensor(dtype, hubRows(new Uint8Array(data.buffer), shape[0]!, change.heads));
    },
    async readF32(name) {
      const { ggmlName, change, shape } = findTensor(file.name, tensors, name);
      const data = await file.readF32(ggmlName);
      switch (change?.kind) {
        case 'permuted':
          return hubRows(data, shape[0]!, change.heads);
        case 'plus one':
          return data.map((weight) => weight - 1);
        case 'transposed':
          return transpose(data, shape[1]!, shape[0]!);
        default:
          return data;
      }
    },
  };
}

type Rows = Float32Array<ArrayBuffer> | Uint8Array<ArrayBuffer>;

/** Written as `w.reshape(heads, 2, d/2, …).swapaxes(1, 2)`: row 2·i + half of a head is the hub's row half·d/2 + i. */
function hubRow(row: number, headRows: number): number {
  const inHead = row % headRows;
  return row - inHead + (inHead % 2) * (headRows / 2) + (inHead >> 1);
}

function hubRows<T extends Rows>(data: T, rows: number, heads: number): T {
  const width = data.length / rows;
  const ordered = data.slice() as T;
  for (let row = 0; row < rows; row++) {
    ordered.set(data.subarray(row * width, (row + 1) * width), hubRow(row, rows / heads) * width);
  }
  return ordered;
}

/** The hub's weights as the file wants them; the inverse of what `readF32` undoes. */
export function changedForGguf(
  data: Float32Array<ArrayBuffer>,
  shape: readonly number[],
  change: Change,
): { data: Float32Array<ArrayBuffer>; shape: readonly number[] } {
  switch (change?.kind) {
    case 'permuted': {
      const rows = shape[0]!;
      const width = data.length / rows;
      const ordered = data.slice();
      for (let row = 0; row < rows; row++) {
        const from = hubRow(row, rows / change.heads) * width;
        ordered.set(data.subarray(from, from + width), row * width);
      }
      return { data: ordered, shape };
    }
    case 'plus one':
      return { data: data.map((weight) => weight + 1), shape };
    case 'transposed':
      return { data: transpose(data, shape[0]!, shape[1]!), shape: shape.toReversed() };
    default:
      return { data, shape };
  }
}

function transpose(data: Float32Array, rows: number, columns: number): Float32Array<ArrayBuffer> {
  const out = new Float32Array(data.length);
  for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) out[j * rows + i] = data[i * columns + j]!;
  return out;
}
