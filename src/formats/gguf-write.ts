/**
 * Writes the GGUF container, version 3, in pieces: names, types and shapes are known up front, a tensor's bytes are asked
 * for when its turn comes. Values go out as they are given; what a model must say of itself is the caller's to know.
 */
import { collectBytes } from './byte-source.ts';
import { ggmlTypes } from './ggml-types.ts';
import { elementCount } from './tensor-file.ts';

type Scalar = 'u8' | 'i8' | 'u16' | 'i16' | 'u32' | 'i32' | 'f32' | 'bool' | 'string' | 'u64' | 'i64' | 'f64';

export interface GgufEntry {
  key: string;
  type: Scalar | `${Scalar}[]`;
  value: string | number | bigint | boolean | readonly (string | number | bigint | boolean)[];
}

export interface GgufTensorToWrite {
  name: string;
  /** ggml's name of the type: F32, F16, Q8_0 …. */
  dtype: string;
  /** Slowest dimension first. */
  shape: readonly number[];
  /** Its bytes in that type. */
  data: () => Uint8Array<ArrayBuffer> | Promise<Uint8Array<ArrayBuffer>>;
}

const scalarNumbers: Record<Scalar, number> = {
  u8: 0,
  i8: 1,
  u16: 2,
  i16: 3,
  u32: 4,
  i32: 5,
  f32: 6,
  bool: 7,
  string: 8,
  u64: 10,
  i64: 11,
  f64: 12,
};
const arrayNumber = 9;
const alignment = 32; // the default: general.alignment need not be written

export async function* streamGguf(
  entries: readonly GgufEntry[],
  tensors: readonly GgufTensorToWrite[],
): AsyncGenerator<Uint8Array<ArrayBuffer>, void, undefined> {
  const out = new Writer();
  out.bytes(new TextEncoder().encode('GGUF'));
  out.scalar('u32', 3);
  out.scalar('u64', tensors.length);
  out.scalar('u64', entries.length);
  for (const { key, type, value } of entries) {
    out.scalar('string', key);
    if (Array.isArray(value)) {
      const element = type.replace('[]', '') as Scalar;
      out.scalar('u32', arrayNumber);
      out.scalar('u32', scalarNumbers[element]);
      out.scalar('u64', value.length);
      for (const item of value as Parameters<typeof out.scalar>[1][]) out.scalar(element, item);
    } else {
      out.scalar('u32', scalarNumbers[type as Scalar]);
      out.scalar(type as Scalar, value as string);
    }
  }
  const sizes: number[] = [];
  let offset = 0;
  for (const { name, dtype, shape } of tensors) {
    const [number, type] = [...ggmlTypes].find(([, { name }]) => name === dtype) ?? [];
    const count = elementCount(shape);
    if (number === undefined || type === undefined || count === undefined || (shape.at(-1) ?? 1) % type.block !== 0) {
      throw new Error(`tensor ${name}: ${dtype} ${JSON.stringify(shape)} can't be stored`);
    }
    out.scalar('string', name);
    out.scalar('u32', shape.length);
    for (const size of shape.toReversed()) out.scalar('u64', size);
    out.scalar('u32', number);
    out.scalar('u64', offset);
    const bytes = (count / type.block) * type.bytes;
    sizes.push(bytes);
    offset += bytes + padding(bytes);
  }
  out.bytes(new Uint8Array(padding(out.length)));
  yield await out.take();
  for (const [i, { name, data }] of tensors.entries()) {
    const bytes = await data();
    if (bytes.length !== sizes[i]) throw new Error(`tensor ${name}: ${bytes.length} bytes and not ${sizes[i]}`);
    yield bytes;
    if (padding(bytes.length) > 0) yield new Uint8Array(padding(bytes.length));
  }
}

const padding = (length: number): number => -length & (alignment - 1);

class Writer {
  length = 0;
  private readonly parts: Uint8Array<ArrayBuffer>[] = [];

  bytes(bytes: Uint8Array<ArrayBuffer>): void {
    this.parts.push(bytes);
    this.length += bytes.length;
  }

  scalar(type: Scalar, value: string | number | bigint | boolean): void {
    if (type === 'string') {
      const text = new TextEncoder().encode(String(value));
      this.scalar('u64', text.length);
      this.bytes(text);
      return;
    }
    const view = new DataView(new ArrayBuffer(type === 'bool' ? 1 : Number(type.slice(1)) / 8));
    switch (type) {
      case 'bool':
      case 'u8':
        view.setUint8(0, Number(value));
        break;
      case 'i8':
        view.setInt8(0, Number(value));
        break;
      case 'u16':
        view.setUint16(0, Number(value), true);
        break;
      case 'i16':
        view.setInt16(0, Number(value), true);
        break;
      case 'u32':
        view.setUint32(0, Number(value), true);
        break;
      case 'i32':
        view.setInt32(0, Number(value), true);
        break;
      case 'f32':
        view.setFloat32(0, Number(value), true);
        break;
      case 'f64':
        view.setFloat64(0, Number(value), true);
        break;
      case 'u64':
        view.setBigUint64(0, BigInt(value), true);
        break;
      case 'i64':
        view.setBigInt64(0, BigInt(value), true);
        break;
    }
    this.bytes(new Uint8Array(view.buffer));
  }

  take(): Promise<Uint8Array<ArrayBuffer>> {
    return collectBytes(this.parts);
  }
}
