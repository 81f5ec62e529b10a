/**
 * GGUF, the container: metadata and tensors under ggml's names (ggml/docs/gguf.md), versions 2 and 3, little-endian.
 * The head is read through a window that moves forward, everything in it is bounded before it is allocated, and no
 * tensor is read until asked for. What the names and values mean for a model is gguf-model.ts.
 */
import type { ByteSource } from './byte-source.ts';
import { ggmlTypes, readableGgmlTypes, type GgmlType } from './ggml-types.ts';
import { InputError } from './input-error.ts';
import { findTensor, viewTensor, type TensorFile, type TensorInfo } from './tensor-file.ts';

export type GgufArray =
  | readonly GgufValue[]
  | Uint8Array
  | Int8Array
  | Uint16Array
  | Int16Array
  | Uint32Array
  | Int32Array
  | Float32Array
  | Float64Array
  | BigUint64Array
  | BigInt64Array;
/** Integers beyond 2^53 stay bigint; arrays of numbers are typed arrays (of bool: bytes 0 and 1). */
export type GgufValue = string | number | bigint | boolean | GgufArray;

export interface GgufTensorInfo extends TensorInfo {
  readonly type: GgmlType;
  /** Byte where it starts in the file. */
  readonly start: number;
}

export interface GgufFile extends TensorFile {
  readonly values: ReadonlyMap<string, GgufValue>;
  readonly tensors: ReadonlyMap<string, GgufTensorInfo>;
  readonly architecture: string;
}

/** The bounds of huggingface.js's reader and of the format's own text, whichever is tighter. */
const limits = {
  values: 100_000,
  tensors: 10_000_000,
  keyBytes: 65_535,
  stringBytes: 10_000_000,
  arrayElements: 1_000_000,
  nesting: 4,
  nameBytes: 64,
  dimensions: 4,
  dimension: 2 ** 32,
};

const magic = 0x46554747; // "GGUF"
/** A value and a tensor entry are at least this long in the file: a count that can't fit is refused at once. */
const leastValueBytes = 8 + 1 + 4 + 1;
const leastTensorBytes = 8 + 1 + 4 + 4 + 8;

export async function openGguf(source: ByteSource): Promise<GgufFile> {
  const head = new Head(source);
  if (source.size < 24 || (await head.u32('header')) !== magic) {
    throw head.refuse('header', 'it does not start with GGUF', 'a GGUF file');
  }
  const version = await head.u32('header');
  if (version !== 2 && version !== 3) {
    const bigEndian = version === 0x03000000 || version === 0x02000000;
    throw head.refuse(
      'header',
      bigEndian ? 'it is big-endian' : `it is of version ${version}`,
      'version 2 or 3, little-endian',
    );
  }
  const tensorCount = await head.count('tensor count', limits.tensors, leastTensorBytes);
  const valueCount = await head.count('metadata count', limits.values, leastValueBytes);

  const values = new Map<string, GgufValue>();
  for (let i = 0; i < valueCount; i++) {
    const key = await head.string(`metadata value ${i}`, limits.keyBytes);
    const place = `metadata ${key}`;
    if (values.has(key)) throw head.refuse(place, 'it appears twice', 'every key once');
    values.set(key, await head.value(await head.u32(place), place, 0));
  }
  const architecture = values.get('general.architecture');
  if (typeof architecture !== 'string') {
    throw head.refuse('metadata general.architecture', 'it is missing or no string', 'the name of an architecture');
  }
  const alignment = values.get('general.alignment') ?? 32;
  if (typeof alignment !== 'number' || !Number.isInteger(alignment) || alignment <= 0 || alignment % 8 !== 0) {
    throw head.refuse('metadata general.alignment', `it is ${String(alignment)}`, 'a multiple of 8');
  }

  const entries: { name: string; shape: number[]; type: GgmlType; offset: number; bytes: number }[] = [];
  for (let i = 0; i < tensorCount; i++) entries.push(await tensorEntry(head, i, alignment));
  const dataStart = Math.ceil(head.position / alignment) * alignment;
  const tensors = new Map<string, GgufTensorInfo>();
  for (const { name, shape, type, offset, bytes } of entries) {
    if (tensors.has(name)) throw head.refuse(`tensor ${name}`, 'it appears twice', 'every name once');
    const start = dataStart + offset;
    if (start + bytes > source.size) {
      throw head.refuse(
        `tensor ${name}`,
        `it would end at byte ${start + bytes} of a file of ${source.size}`,
        'a whole file: it may be cut short',
      );
    }
    tensors.set(name, { dtype: type.name, shape, bytes, type, start });
  }
  refuseOverlaps(head, tensors);

  const bytesOf = (info: GgufTensorInfo) => source.read(info.start, info.start + info.bytes);
  const strings = [...values].filter((entry): entry is [string, string] => typeof entry[1] === 'string');
  return {
    name: source.name,
    metadata: Object.fromEntries(strings),
    values,
    tensors,
    architecture,
    async read(name) {
      const info = findTensor(source.name, tensors, name);
      return viewTensor(info.dtype, await bytesOf(info));
    },
    async readF32(name) {
      const info = findTensor(source.name, tensors, name);
      const { dequantise } = info.type;
      if (dequantise === undefined) {
        throw head.refuse(`tensor ${name}`, `it is stored as ${info.dtype}`, readableGgmlTypes.join(', '));
      }
      return dequantise(await bytesOf(info));
    },
  };
}

async function tensorEntry(head: Head, index: number, alignment: number) {
  const name = await head.string(`tensor ${index}`, limits.nameBytes);
  const place = `tensor ${name}`;
  const dimensions = await head.u32(place);
  if (dimensions > limits.dimensions) {
    throw head.refuse(place, `it has ${dimensions} dimensions`, `at most ${limits.dimensions}`);
  }
  const shape: number[] = [];
  let weights = 1;
  for (let d = 0; d < dimensions; d++) {
    const size = await head.u64(place);
    weights *= Number(size);
    if (size > limits.dimension || !Number.isSafeInteger(weights)) {
      throw head.refuse(place, `a dimension is ${size}`, `at most ${limits.dimension}, all together below 2^53`);
    }
    shape.unshift(Number(size)); // ggml lists the fastest first
  }
  const typeNumber = await head.u32(place);
  const type = ggmlTypes.get(typeNumber);
  if (type === undefined) throw head.refuse(place, `its type is number ${typeNumber}`, 'a type that ggml defines');
  if ((shape.at(-1) ?? 1) % type.block !== 0) {
    throw head.refuse(place, `its rows have ${shape.at(-1)} weights of ${type.name}`, `a multiple of ${type.block}`);
  }
  const offset = Number(await head.u64(place));
  const bytes = (weights / type.block) * type.bytes;
  if (!Number.isSafeInteger(offset) || offset % alignment !== 0 || !Number.isSafeInteger(bytes)) {
    throw head.refuse(place, `its data starts at ${offset}`, `a multiple of ${alignment} inside the file`);
  }
  return { name, shape, type, offset, bytes };
}

function refuseOverlaps(head: Head, tensors: ReadonlyMap<string, GgufTensorInfo>): void {
  const ordered = [...tensors].filter(([, info]) => info.bytes > 0).sort(([, a], [, b]) => a.start - b.start);
  for (let i = 1; i < ordered.length; i++) {
    const [before, { start, bytes }] = ordered[i - 1]!;
    const [name, info] = ordered[i]!;
    if (info.start < start + bytes) {
      throw head.refuse(`tensor ${name}`, `it overlaps tensor ${before}`, 'tensors that lie apart');
    }
  }
}

/** Number types of metadata by their numbers: bytes, and how one and how many are read. */
const numbers: Readonly<
  Record<number, { bytes: number; one: (view: DataView) => number | bigint; all: (buffer: ArrayBuffer) => GgufArray }>
> = {
  0: { bytes: 1, one: (v) => v.getUint8(0), all: (b) => new Uint8Array(b) },
  1: { bytes: 1, one: (v) => v.getInt8(0), all: (b) => new Int8Array(b) },
  2: { bytes: 2, one: (v) => v.getUint16(0, true), all: (b) => new Uint16Array(b) },
  3: { bytes: 2, one: (v) => v.getInt16(0, true), all: (b) => new Int16Array(b) },
  4: { bytes: 4, one: (v) => v.getUint32(0, true), all: (b) => new Uint32Array(b) },
  5: { bytes: 4, one: (v) => v.getInt32(0, true), all: (b) => new Int32Array(b) },
  6: { bytes: 4, one: (v) => v.getFloat32(0, true), all: (b) => new Float32Array(b) },
  10: { bytes: 8, one: (v) => narrow(v.getBigUint64(0, true)), all: (b) => new BigUint64Array(b) },
  11: { bytes: 8, one: (v) => narrow(v.getBigInt64(0, true)), all: (b) => new BigInt64Array(b) },
  12: { bytes: 8, one: (v) => v.getFloat64(0, true), all: (b) => new Float64Array(b) },
};
const boolType = 7;
const stringType = 8;
const arrayType = 9;

function narrow(value: bigint): number | bigint {
  return Number.isSafeInteger(Number(value)) ? Number(value) : value;
}

/** Reads forward through the head of the file; the window grows so that a tokenizer's megabytes cost few reads. */
class Head {
  position = 0;
  private window = new Uint8Array(0);
  private windowStart = 0;
  private windowSize = 64 * 1024;

  constructor(private readonly source: ByteSource) {}

  refuse(place: string, what: string, allowed: string): InputError {
    return new InputError(this.source.name, place, what, allowed);
  }

  /** The next bytes; a promise only where the window has to move, so that long lists of strings read fast. */
  private take(length: number, place: string): Uint8Array | Promise<Uint8Array> {
    const at = this.position - this.windowStart;
    if (at + length <= this.window.length) {
      this.position += length;
      return this.window.subarray(at, at + length);
    }
    if (this.position + length > this.source.size) {
      throw this.refuse(
        place,
        `the file ends inside it, at byte ${this.source.size}`,
        'a whole file: it may be cut short',
      );
    }
    return this.move(length);
  }

  private async move(length: number): Promise<Uint8Array> {
    const end = Math.min(this.position + Math.max(length, this.windowSize), this.source.size);
    this.window = await this.source.read(this.position, end);
    this.windowStart = this.position;
    this.windowSize = Math.min(this.windowSize * 4, 4 * 1024 * 1024);
    this.position += length;
    return this.window.subarray(0, length);
  }

  private async view(length: number, place: string): Promise<DataView> {
    const bytes = await this.take(length, place);
    return new DataView(bytes.buffer, bytes.byteOffset, length);
  }

  async u32(place: string): Promise<number> {
    return (await this.view(4, place)).getUint32(0, true);
  }

  async u64(place: string): Promise<bigint> {
    return (await this.view(8, place)).getBigUint64(0, true);
  }

  /** A number of things that are at least `leastBytes` long each. */
  async count(place: string, most: number, leastBytes: number): Promise<number> {
    const count = await this.u64(place);
    if (count > BigInt(most)) throw this.refuse(place, `it is ${count}`, `at most ${most}`);
    if (Number(count) * leastBytes > this.source.size - this.position) {
      throw this.refuse(
        place,
        `${count} do not fit a file of ${this.source.size} bytes`,
        'a whole file: it may be cut short',
      );
    }
    return Number(count);
  }

  async string(place: string, mostBytes: number): Promise<string> {
    const lengthBytes = this.take(8, place);
    return this.stringOf(lengthBytes instanceof Promise ? await lengthBytes : lengthBytes, place, mostBytes);
  }

  private stringOf(lengthBytes: Uint8Array, place: string, mostBytes: number): string | Promise<string> {
    const length = new DataView(lengthBytes.buffer, lengthBytes.byteOffset, 8).getBigUint64(0, true);
    if (length > BigInt(mostBytes)) throw this.refuse(place, `a string of ${length} bytes`, `at most ${mostBytes}`);
    const bytes = this.take(Number(length), place);
    return bytes instanceof Promise ? bytes.then((text) => this.text(text, place)) : this.text(bytes, place);
  }

  private text(bytes: Uint8Array, place: string): string {
    try {
      return utf8.decode(bytes);
    } catch {
      throw this.refuse(place, 'a string is not UTF-8', 'UTF-8');
    }
  }

  async value(type: number, place: string, depth: number): Promise<GgufValue> {
    if (type === stringType) return this.string(place, limits.stringBytes);
    if (type === boolType) {
      const bit = (await this.view(1, place)).getUint8(0);
      if (bit > 1) throw this.refuse(place, `a bool is ${bit}`, '0 or 1');
      return bit === 1;
    }
    if (type === arrayType) return this.array(place, depth + 1);
    return this.numberType(type, place).one(await this.view(this.numberType(type, place).bytes, place));
  }

  private numberType(type: number, place: string) {
    const found = numbers[type];
    if (found === undefined) throw this.refuse(place, `its value type is number ${type}`, '0 to 12');
    return found;
  }

  private async array(place: string, depth: number): Promise<GgufArray> {
    if (depth > limits.nesting) throw this.refuse(place, 'arrays in arrays', `at most ${limits.nesting} deep`);
    const type = await this.u32(place);
    if (type === stringType) {
      const count = await this.count(place, limits.arrayElements, 8);
      const strings: string[] = [];
      for (let i = 0; i < count; i++) {
        const lengthBytes = this.take(8, place);
        const text = this.stringOf(
          lengthBytes instanceof Promise ? await lengthBytes : lengthBytes,
          place,
          limits.stringBytes,
        );
        strings.push(typeof text === 'string' ? text : await text);
      }
      return strings;
    }
    if (type === arrayType) {
      const count = await this.count(place, limits.arrayElements, 12);
      const arrays: GgufValue[] = [];
      for (let i = 0; i < count; i++) arrays.push(await this.array(place, depth + 1));
      return arrays;
    }
    const number = this.numberType(type === boolType ? 0 : type, place);
    const count = await this.count(place, limits.arrayElements, number.bytes);
    const bytes = (await this.take(count * number.bytes, place)).slice();
    if (type === boolType && bytes.some((bit) => bit > 1)) throw this.refuse(place, 'a bool above 1', '0 or 1');
    return number.all(bytes.buffer as ArrayBuffer);
  }
}

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
