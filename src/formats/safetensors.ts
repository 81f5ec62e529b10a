/**
 * safetensors: eight bytes of header length, a JSON header, then the tensors' bytes with no hole between them.
 * The header is checked as the reference implementation checks it (huggingface/safetensors, tensor.rs), and nothing beyond
 * it is read until a tensor is asked for. The writer orders tensors as the reference does: widest elements first, then by
 * name, so that every tensor is aligned to its element.
 */
import type { ByteSource } from './byte-source.ts';
import { f32ToBf16, f32ToF16 } from './half.ts';
import { InputError } from './input-error.ts';
import { isJsonObject, parseStrictJson } from './strict-json.ts';
import {
  elementCount,
  findTensor,
  viewTensor,
  widenToF32,
  type TensorData,
  type TensorFile,
  type TensorInfo,
} from './tensor-file.ts';

const largestHeader = 100_000_000;

const bitsOf: Readonly<Record<string, number>> = {
  F64: 64,
  I64: 64,
  U64: 64,
  C64: 64,
  F32: 32,
  I32: 32,
  U32: 32,
  F16: 16,
  BF16: 16,
  I16: 16,
  U16: 16,
  BOOL: 8,
  I8: 8,
  U8: 8,
  F8_E4M3: 8,
  F8_E5M2: 8,
  F8_E8M0: 8,
  F6_E2M3: 6,
  F6_E3M2: 6,
  F4: 4,
};

export type SafetensorsDtype = keyof typeof bitsOf & string;

interface PlacedTensor extends TensorInfo {
  /** Byte where it starts in the file. */
  readonly start: number;
}

export async function openSafetensors(source: ByteSource): Promise<TensorFile> {
  const { tensors, metadata } = await readHeader(source);
  const bytesOf = (info: PlacedTensor) => source.read(info.start, info.start + info.bytes);
  return {
    name: source.name,
    tensors,
    metadata,
    async read(name) {
      const info = findTensor(source.name, tensors, name);
      return viewTensor(info.dtype, await bytesOf(info));
    },
    async readF32(name) {
      const info = findTensor(source.name, tensors, name);
      if (!['F64', 'F32', 'F16', 'BF16'].includes(info.dtype)) {
        throw new InputError(source.name, `tensor ${name}`, `its dtype is ${info.dtype}`, 'F64, F32, F16 or BF16');
      }
      return widenToF32(info.dtype, await bytesOf(info))!;
    },
  };
}

async function readHeader(
  source: ByteSource,
): Promise<{ tensors: Map<string, PlacedTensor>; metadata: Record<string, string> }> {
  const refuse = (place: string, what: string, allowed: string) => new InputError(source.name, place, what, allowed);
  if (source.size < 8) {
    throw refuse('header', `the file has ${source.size} bytes`, 'a safetensors file, which has at least 8');
  }
  const lengthBytes = await source.read(0, 8);
  const length = new DataView(lengthBytes.buffer, lengthBytes.byteOffset, 8).getBigUint64(0, true);
  if (length > BigInt(largestHeader)) {
    throw refuse('header', `it claims to be ${length} bytes long`, `at most ${largestHeader} in a safetensors file`);
  }
  const dataStart = 8 + Number(length);
  if (dataStart > source.size) {
    throw refuse(
      'header',
      `it claims ${length} bytes of a file of ${source.size}`,
      'a whole file: it may be cut short',
    );
  }
  const header = parseHeader(await source.read(8, dataStart), refuse);

  const metadata: [string, string][] = [];
  const placed: { name: string; info: PlacedTensor; begin: number; end: number }[] = [];
  for (const [name, value] of Object.entries(header)) {
    if (name === '__metadata__') {
      if (!isJsonObject(value)) throw refuse('__metadata__', 'it is not an object', 'an object of strings');
      for (const [key, text] of Object.entries(value)) {
        if (typeof text !== 'string') throw refuse(`__metadata__.${key}`, 'it is not a string', 'strings only');
        metadata.push([key, text]);
      }
      continue;
    }
    const refuseTensor = (what: string, allowed: string) => refuse(`tensor ${name}`, what, allowed);
    if (!isJsonObject(value)) throw refuseTensor('its entry is not an object', 'dtype, shape and data_offsets');
    const { dtype, shape, data_offsets: offsets } = value;
    if (typeof dtype !== 'string' || !Object.hasOwn(bitsOf, dtype)) {
      throw refuseTensor(`its dtype is ${JSON.stringify(dtype)}`, Object.keys(bitsOf).join(', '));
    }
    const count = Array.isArray(shape) ? elementCount(shape) : undefined;
    if (count === undefined) {
      throw refuseTensor(`its shape is ${brief(shape)}`, 'whole numbers from 0, their product below 2^53');
    }
    const [begin, end] = Array.isArray(offsets) && offsets.length === 2 ? (offsets as unknown[]) : [];
    if (!isOffset(begin) || !isOffset(end) || begin > end) {
      throw refuseTensor(`its data_offsets are ${brief(offsets)}`, 'two whole numbers, [begin, end]');
    }
    const bits = count * bitsOf[dtype]!;
    if (!Number.isSafeInteger(bits) || bits % 8 !== 0 || bits / 8 !== end - begin) {
      throw refuseTensor(
        `${dtype} ${JSON.stringify(shape)} needs ${bits / 8} bytes and its data_offsets hold ${end - begin}`,
        'the same number',
      );
    }
    const info = { dtype, shape: shape as number[], bytes: end - begin, start: dataStart + begin };
    placed.push({ name, info, begin, end });
  }

  placed.sort((a, b) => a.begin - b.begin || a.end - b.end);
  let expected = 0;
  for (const { name, begin, end } of placed) {
    if (begin !== expected) {
      throw refuse(
        `tensor ${name}`,
        `it starts at byte ${begin} of the data, the one before it ends at ${expected}`,
        'tensors one after another, without overlap or hole',
      );
    }
    expected = end;
  }
  if (dataStart + expected !== source.size) {
    throw refuse(
      'data',
      `the header describes a file of ${dataStart + expected} bytes, this one has ${source.size}`,
      'a whole file and nothing behind it: it may be cut short',
    );
  }
  return { tensors: new Map(placed.map(({ name, info }) => [name, info])), metadata: Object.fromEntries(metadata) };
}

function parseHeader(
  bytes: Uint8Array,
  refuse: (place: string, what: string, allowed: string) => InputError,
): Record<string, unknown> {
  if (bytes[0] !== 0x7b) throw refuse('header', 'it does not start with {', 'a JSON object, as in a safetensors file');
  let header: unknown;
  try {
    header = parseStrictJson(new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes));
  } catch (error) {
    throw refuse('header', `it is not valid: ${(error as Error).message}`, 'JSON in UTF-8, every name once');
  }
  return header as Record<string, unknown>;
}

function isOffset(value: unknown): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0;
}

function brief(value: unknown): string {
  const text = JSON.stringify(value) ?? 'missing';
  return text.length > 80 ? `${text.slice(0, 80)}…` : text;
}

export interface TensorToWrite {
  name: string;
  dtype: SafetensorsDtype;
  shape: readonly number[];
  /**
   * Elements of that dtype, or its bytes; a Float32Array is rounded to F16, BF16 or widened to F64 where the dtype says so.
   * A function is called when the tensor's turn comes, so that a large model is never whole in memory.
   */
  data: TensorData | (() => TensorData | Promise<TensorData>);
}

/** The file in pieces, in order; only names, dtypes and shapes are needed before the first. */
export async function* streamSafetensors(
  tensors: Iterable<TensorToWrite>,
  metadata: Readonly<Record<string, string>> = {},
): AsyncGenerator<Uint8Array<ArrayBuffer>, void, undefined> {
  const { header, ordered } = layOut(tensors, metadata);
  yield header;
  for (const tensor of ordered) {
    yield encode(tensor, typeof tensor.data === 'function' ? await tensor.data() : tensor.data);
  }
}

/** The whole file at once. */
export function writeSafetensors(
  tensors: Iterable<TensorToWrite & { data: TensorData }>,
  metadata: Readonly<Record<string, string>> = {},
): Uint8Array<ArrayBuffer> {
  const { header, ordered, size } = layOut(tensors, metadata);
  const file = new Uint8Array(size);
  file.set(header);
  let at = header.length;
  for (const tensor of ordered) {
    const bytes = encode(tensor, tensor.data);
    file.set(bytes, at);
    at += bytes.length;
  }
  return file;
}

/** Bytes of the file that the same tensors and metadata give. */
export function safetensorsSize(
  tensors: Iterable<Pick<TensorToWrite, 'name' | 'dtype' | 'shape'>>,
  metadata: Readonly<Record<string, string>> = {},
): number {
  return layOut(tensors, metadata).size;
}

function layOut<T extends Pick<TensorToWrite, 'name' | 'dtype' | 'shape'>>(
  tensors: Iterable<T>,
  metadata: Readonly<Record<string, string>>,
): { header: Uint8Array<ArrayBuffer>; ordered: T[]; size: number } {
  const ordered = [...tensors].sort(
    (a, b) => bitsOf[b.dtype]! - bitsOf[a.dtype]! || (a.name < b.name ? -1 : a.name > b.name ? 1 : 0),
  );
  const entries: [string, unknown][] = [];
  if (Object.keys(metadata).length > 0) entries.push(['__metadata__', metadata]);
  const seen = new Set(['__metadata__']);
  let offset = 0;
  for (const { name, dtype, shape } of ordered) {
    if (seen.has(name)) throw new Error(`tensor ${name}: the name is taken`);
    seen.add(name);
    const end = offset + byteSize(name, dtype, shape);
    entries.push([name, { dtype, shape: [...shape], data_offsets: [offset, end] }]);
    offset = end;
  }
  // Joined by hand: in an object literal a name such as "0" or "__proto__" would lose its place or vanish.
  const json = `{${entries.map(([key, value]) => `${JSON.stringify(key)}:${JSON.stringify(value)}`).join(',')}}`;
  const text = new TextEncoder().encode(json);
  const length = Math.ceil(text.length / 8) * 8;
  const header = new Uint8Array(8 + length).fill(0x20);
  new DataView(header.buffer).setBigUint64(0, BigInt(length), true);
  header.set(text, 8);
  return { header, ordered, size: header.length + offset };
}

function byteSize(name: string, dtype: SafetensorsDtype, shape: readonly number[]): number {
  const count = elementCount(shape);
  const bits = count === undefined ? NaN : count * (bitsOf[dtype] ?? NaN);
  if (!Number.isSafeInteger(bits) || bits % 8 !== 0) {
    throw new Error(`tensor ${name}: ${dtype} ${JSON.stringify(shape)} has no size in bytes`);
  }
  return bits / 8;
}

function encode({ name, dtype, shape }: TensorToWrite, data: TensorData): Uint8Array<ArrayBuffer> {
  let stored = data;
  if (data instanceof Float32Array) {
    if (dtype === 'F16') stored = f32ToF16(data);
    else if (dtype === 'BF16') stored = f32ToBf16(data);
    else if (dtype === 'F64') stored = Float64Array.from(data);
  }
  const bytes = new Uint8Array(stored.buffer, stored.byteOffset, stored.byteLength);
  const isBytes = stored instanceof Uint8Array;
  if ((!isBytes && stored.BYTES_PER_ELEMENT * 8 !== bitsOf[dtype]) || bytes.length !== byteSize(name, dtype, shape)) {
    throw new Error(
      `tensor ${name}: ${data.constructor.name}(${data.length}) is not ${dtype} ${JSON.stringify(shape)}`,
    );
  }
  return bytes;
}
