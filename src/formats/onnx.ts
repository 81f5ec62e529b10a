/**
 * An ONNX model as values: what onnx.proto's ModelProto says, in the parts that models of networks use. onnx-read.ts and
 * onnx-write.ts turn bytes into this and back; a tensor's bytes stay where they are until someone asks.
 */
import type { FileSource } from './byte-source.ts';
import { InputError } from './input-error.ts';
import { elementCount, widenToF32 } from './tensor-file.ts';

/** Element types by TensorProto.DataType's numbers; bits of an element (of a string: none). */
export const onnxTypes = {
  FLOAT: { number: 1, bits: 32 },
  UINT8: { number: 2, bits: 8 },
  INT8: { number: 3, bits: 8 },
  UINT16: { number: 4, bits: 16 },
  INT16: { number: 5, bits: 16 },
  INT32: { number: 6, bits: 32 },
  INT64: { number: 7, bits: 64 },
  STRING: { number: 8, bits: 0 },
  BOOL: { number: 9, bits: 8 },
  FLOAT16: { number: 10, bits: 16 },
  DOUBLE: { number: 11, bits: 64 },
  UINT32: { number: 12, bits: 32 },
  UINT64: { number: 13, bits: 64 },
  COMPLEX64: { number: 14, bits: 64 },
  COMPLEX128: { number: 15, bits: 128 },
  BFLOAT16: { number: 16, bits: 16 },
  FLOAT8E4M3FN: { number: 17, bits: 8 },
  FLOAT8E4M3FNUZ: { number: 18, bits: 8 },
  FLOAT8E5M2: { number: 19, bits: 8 },
  FLOAT8E5M2FNUZ: { number: 20, bits: 8 },
  UINT4: { number: 21, bits: 4 },
  INT4: { number: 22, bits: 4 },
  FLOAT4E2M1: { number: 23, bits: 4 },
  FLOAT8E8M0: { number: 24, bits: 8 },
  UINT2: { number: 25, bits: 2 },
  INT2: { number: 26, bits: 2 },
} as const;

export type OnnxType = keyof typeof onnxTypes;

export interface OnnxModel {
  readonly ir_version: number;
  readonly producer_name: string;
  readonly producer_version: string;
  /** Version by domain; '' is ONNX's own. */
  readonly opsets: Readonly<Record<string, number>>;
  readonly metadata: Readonly<Record<string, string>>;
  readonly graph: OnnxGraph;
  /** Parts of the file that are not represented here (functions, training_info, …): a model with any is not whole. */
  readonly unread: readonly string[];
}

export interface OnnxGraph {
  readonly name: string;
  readonly nodes: readonly OnnxNode[];
  readonly initializers: readonly OnnxTensor[];
  readonly inputs: readonly OnnxValue[];
  readonly outputs: readonly OnnxValue[];
  /** Types of values in between, where they are said. */
  readonly values: readonly OnnxValue[];
}

export interface OnnxNode {
  readonly name: string;
  readonly op_type: string;
  readonly domain: string;
  /** '' is an input that is left out. */
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  readonly attributes: readonly OnnxAttribute[];
}

/** Whole numbers beyond 2^53 stay bigint; a string that is not UTF-8 stays bytes. */
export type OnnxAttribute = { readonly name: string } & (
  | { readonly type: 'float'; readonly value: number }
  | { readonly type: 'int'; readonly value: number | bigint }
  | { readonly type: 'string'; readonly value: string | Uint8Array }
  | { readonly type: 'tensor'; readonly value: OnnxTensor }
  | { readonly type: 'graph'; readonly value: OnnxGraph }
  | { readonly type: 'floats'; readonly value: readonly number[] }
  | { readonly type: 'ints'; readonly value: readonly (number | bigint)[] }
  | { readonly type: 'strings'; readonly value: readonly (string | Uint8Array)[] }
);

export interface OnnxTensor {
  readonly name: string;
  readonly dtype: OnnxType;
  readonly dims: readonly number[];
  readonly data: OnnxData;
}

/** Little-endian, row-major: at hand, given when asked, or in a file beside the model. */
export type OnnxData =
  | Uint8Array<ArrayBuffer>
  | (() => Uint8Array<ArrayBuffer> | Promise<Uint8Array<ArrayBuffer>> | AsyncIterable<Uint8Array<ArrayBuffer>>)
  | OnnxExternalData;

export interface OnnxExternalData {
  /** The bare name of a file in the model's folder. */
  readonly location: string;
  readonly offset: number;
  readonly length: number;
}

export interface OnnxValue {
  readonly name: string;
  /** undefined where it is no tensor, or its type is not said. */
  readonly dtype: OnnxType | undefined;
  /** A string is a size that the caller chooses, null one that is unknown; undefined where no rank is said. */
  readonly shape: readonly (number | string | null)[] | undefined;
}

/** Bytes of a tensor's data, or undefined where the dims are none or too many. Elements below a byte are packed. */
export function onnxBytes(dtype: OnnxType, dims: readonly unknown[]): number | undefined {
  const count = elementCount(dims);
  const bits = count === undefined ? NaN : count * onnxTypes[dtype].bits;
  return Number.isSafeInteger(bits) ? Math.ceil(bits / 8) : undefined;
}

export function isExternal(data: OnnxData): data is OnnxExternalData {
  return typeof data === 'object' && 'location' in data;
}

/**
 * A tensor's bytes; `beside` is the model's folder, where its external data lie. A location comes from the file: only a
 * bare name is followed (CVE-2022-25882, CVE-2024-27318 and CVE-2026-27489 were paths that led elsewhere).
 */
export async function readOnnxTensor(
  file: string,
  tensor: OnnxTensor,
  beside?: FileSource,
): Promise<Uint8Array<ArrayBuffer>> {
  const { data } = tensor;
  const refuse = (what: string, allowed: string) => new InputError(file, `tensor ${tensor.name}`, what, allowed);
  if (tensor.dtype === 'STRING') throw refuse('it holds strings', 'a tensor of numbers');
  let bytes: Uint8Array<ArrayBuffer>;
  if (isExternal(data)) {
    if (!isBareName(data.location)) throw refuse(`its data lie in ${data.location}`, 'a bare file name');
    const source = await beside?.open(data.location);
    if (source === undefined) throw refuse(`its data lie in ${data.location}, which is missing`, 'the file beside');
    if (data.offset + data.length > source.size) {
      const what = `its data would end at byte ${data.offset + data.length} of ${source.size} of ${data.location}`;
      throw refuse(what, 'a whole file: it may be cut short');
    }
    bytes = await source.read(data.offset, data.offset + data.length);
  } else if (typeof data === 'function') {
    const given = await data();
    if (!(given instanceof Uint8Array)) throw new Error(`tensor ${tensor.name}: its data can only be streamed`);
    bytes = given;
  } else {
    bytes = data;
  }
  const expected = onnxBytes(tensor.dtype, tensor.dims);
  if (bytes.length !== expected) throw refuse(`it has ${bytes.length} bytes of data`, `${expected}, as its dims say`);
  return bytes;
}

export async function readOnnxF32(
  file: string,
  tensor: OnnxTensor,
  beside?: FileSource,
): Promise<Float32Array<ArrayBuffer>> {
  const dtype = ({ FLOAT: 'F32', FLOAT16: 'F16', BFLOAT16: 'BF16', DOUBLE: 'F64' } as const)[tensor.dtype as 'FLOAT'];
  if (dtype === undefined) {
    throw new InputError(
      file,
      `tensor ${tensor.name}`,
      `its type is ${tensor.dtype}`,
      'FLOAT, FLOAT16, BFLOAT16, DOUBLE',
    );
  }
  return widenToF32(dtype, await readOnnxTensor(file, tensor, beside))!;
}

export function isBareName(location: string): boolean {
  return /^[^/\\:\0]+$/.test(location) && location !== '.' && location !== '..';
}
