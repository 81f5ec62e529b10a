/**
 * Named tensors in a file, whatever the file is (safetensors, its shards, GGUF): what is there is known after opening,
 * and a tensor's bytes are read only when asked for. Numbers are little-endian, as on every machine that has WebGPU.
 */
import { bf16ToF32, f16ToF32 } from './half.ts';
import { InputError } from './input-error.ts';

export interface TensorInfo {
  /** As the file names it: F32, BF16, I64 …, in a GGUF also Q4_1, Q6_K …. */
  readonly dtype: string;
  /** Slowest dimension first, as PyTorch lists it. */
  readonly shape: readonly number[];
  /** Bytes in the file. */
  readonly bytes: number;
}

export type TensorData =
  | Float64Array<ArrayBuffer>
  | Float32Array<ArrayBuffer>
  | BigInt64Array<ArrayBuffer>
  | BigUint64Array<ArrayBuffer>
  | Int32Array<ArrayBuffer>
  | Uint32Array<ArrayBuffer>
  | Int16Array<ArrayBuffer>
  | Uint16Array<ArrayBuffer>
  | Int8Array<ArrayBuffer>
  | Uint8Array<ArrayBuffer>;

export interface TensorFile {
  /** As the person named it; errors repeat it. */
  readonly name: string;
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  readonly metadata: Readonly<Record<string, string>>;
  /** As stored: F16 and BF16 come as their bits (Uint16Array), types without an array of their own as bytes. */
  read(name: string): Promise<TensorData>;
  /** Any real-valued tensor as f32; the array is the caller's own. */
  readF32(name: string): Promise<Float32Array<ArrayBuffer>>;
}

export function findTensor<T extends TensorInfo>(file: string, tensors: ReadonlyMap<string, T>, name: string): T {
  const info = tensors.get(name);
  if (info === undefined) {
    throw new InputError(file, `tensor ${name}`, 'it is not in the file', 'a tensor of that name');
  }
  return info;
}

/** Elements of a shape, or undefined where it is no shape or the count can't be held exactly. */
export function elementCount(shape: readonly unknown[]): number | undefined {
  let count = 1;
  for (const size of shape) {
    if (typeof size !== 'number' || !Number.isSafeInteger(size) || size < 0) return undefined;
    count *= size;
    if (!Number.isSafeInteger(count)) return undefined;
  }
  return count;
}

/** Bytes in an array of their own, so that views of any width are aligned and the caller may transfer or change them. */
function owned(bytes: Uint8Array<ArrayBuffer>): ArrayBuffer {
  return bytes.byteLength === bytes.buffer.byteLength ? bytes.buffer : bytes.slice().buffer;
}

export function viewTensor(dtype: string, bytes: Uint8Array<ArrayBuffer>): TensorData {
  const buffer = owned(bytes);
  switch (dtype) {
    case 'F64':
      return new Float64Array(buffer);
    case 'F32':
      return new Float32Array(buffer);
    case 'I64':
      return new BigInt64Array(buffer);
    case 'U64':
      return new BigUint64Array(buffer);
    case 'I32':
      return new Int32Array(buffer);
    case 'U32':
      return new Uint32Array(buffer);
    case 'I16':
      return new Int16Array(buffer);
    case 'F16':
    case 'BF16':
    case 'U16':
      return new Uint16Array(buffer);
    case 'I8':
      return new Int8Array(buffer);
    default:
      return new Uint8Array(buffer);
  }
}

/** undefined where the dtype is not a float that f32 can stand for. */
export function widenToF32(dtype: string, bytes: Uint8Array<ArrayBuffer>): Float32Array<ArrayBuffer> | undefined {
  const data = viewTensor(dtype, bytes);
  if (dtype === 'F16') return f16ToF32(data as Uint16Array);
  if (dtype === 'BF16') return bf16ToF32(data as Uint16Array);
  if (data instanceof Float32Array) return data;
  if (data instanceof Float64Array) return Float32Array.from(data);
  return undefined;
}
