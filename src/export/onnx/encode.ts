/**
 * An ONNX program ─▶ its files: the model, and where weights are many, files of external data beside it.
 *
 * One protobuf message may not pass 2 GiB, so larger models keep their large tensors in `model.onnx_data`, `_data_1`, …
 * (the names that transformers.js looks for), each small enough for a browser to hold. Weights are asked for one by one
 * as their turn comes.
 */
import type { OnnxAttribute, OnnxModel, OnnxTensor } from '../../formats/onnx.ts';
import { encodeOnnx as encodeModel } from '../../formats/onnx-write.ts';
import { initializerBytes } from './lowering.ts';
import { IR_VERSION } from './lower.ts';
import type { Initializer, NodeAttributes, OnnxProgram } from './program.ts';

export interface EncodedFile {
  /** Beside the model: `name` itself, then `${name}_data`, `${name}_data_1`, … */
  readonly path: string;
  readonly bytes: number;
  readonly data: () => AsyncGenerator<Uint8Array<ArrayBuffer>>;
}

export interface EncodeOptions {
  /** Total bytes of weights from which on they lie beside the model. */
  readonly externalAbove?: number;
  /** Bytes of a file of external data. */
  readonly chunkBytes?: number;
}

/** Tensors smaller than this stay in the model: shapes and scalars that shape inference reads. */
const SMALLEST_EXTERNAL = 1024;
/** Offsets of memory-mapped tensors: a page. */
const EXTERNAL_ALIGNMENT = 4096;

interface Place {
  readonly path: string;
  readonly offset: number;
}

/** @param name file name of the model, e.g. `model_fp16.onnx` */
export function encodeOnnx(program: OnnxProgram, name: string, options: EncodeOptions = {}): EncodedFile[] {
  const { externalAbove = 1.8e9, chunkBytes = 1.8e9 } = options;
  const total = program.initializers.reduce((sum, tensor) => sum + initializerBytes(tensor), 0);
  const chunks = total > externalAbove ? layOut(program.initializers, name, chunkBytes) : [];
  const places = new Map(chunks.flatMap(({ entries }) => entries.map(({ tensor, place }) => [tensor, place] as const)));
  const { bytes, data } = encodeModel(modelOf(program, places));
  return [
    { path: name, bytes, data },
    ...chunks.map(({ path, entries, bytes }) => ({ path, bytes, data: () => externalData(entries, bytes) })),
  ];
}

function modelOf(program: OnnxProgram, places: ReadonlyMap<Initializer, Place>): OnnxModel {
  const tensorOf = (tensor: Initializer): OnnxTensor => {
    const place = places.get(tensor);
    const data = place
      ? { location: place.path, offset: place.offset, length: initializerBytes(tensor) }
      : () => tensor.data();
    return { name: tensor.name, dtype: tensor.type, dims: tensor.shape, data };
  };
  const value = ({ name, type, shape }: OnnxProgram['inputs'][number]) => ({ name, dtype: type, shape });
  return {
    ir_version: IR_VERSION,
    producer_name: 'stillroom',
    producer_version: '',
    opsets: program.opsets,
    metadata: {},
    graph: {
      name: program.name,
      nodes: program.nodes.map(({ op, attributes, ...node }) => ({
        ...node,
        op_type: op,
        attributes: Object.entries(attributes).map(attributeOf),
      })),
      initializers: program.initializers.map(tensorOf),
      inputs: program.inputs.map(value),
      outputs: program.outputs.map(value),
      values: [],
    },
    unread: [],
  };
}

function attributeOf([name, attribute]: [string, NodeAttributes[string]]): OnnxAttribute {
  if ('int' in attribute) return { name, type: 'int', value: attribute.int };
  if ('float' in attribute) return { name, type: 'float', value: attribute.float };
  if ('string' in attribute) return { name, type: 'string', value: attribute.string };
  return { name, type: 'ints', value: attribute.ints };
}

interface Chunk {
  readonly path: string;
  readonly entries: { tensor: Initializer; place: Place }[];
  bytes: number;
}

function layOut(initializers: readonly Initializer[], name: string, chunkBytes: number): Chunk[] {
  const chunks: Chunk[] = [];
  for (const tensor of initializers) {
    const bytes = initializerBytes(tensor);
    if (bytes < SMALLEST_EXTERNAL) continue;
    let chunk = chunks.at(-1);
    let offset = chunk ? Math.ceil(chunk.bytes / EXTERNAL_ALIGNMENT) * EXTERNAL_ALIGNMENT : 0;
    if (!chunk || offset + bytes > chunkBytes) {
      chunk = { path: `${name}_data${chunks.length === 0 ? '' : `_${chunks.length}`}`, entries: [], bytes: 0 };
      chunks.push(chunk);
      offset = 0;
    }
    chunk.entries.push({ tensor, place: { path: chunk.path, offset } });
    chunk.bytes = offset + bytes;
  }
  return chunks;
}

async function* externalData(entries: Chunk['entries'], bytes: number): AsyncGenerator<Uint8Array<ArrayBuffer>> {
  let at = 0;
  for (const { tensor, place } of entries) {
    if (place.offset > at) yield new Uint8Array(place.offset - at);
    const data = await checked(tensor);
    yield data;
    at = place.offset + data.length;
  }
  if (at !== bytes) throw new Error(`external data of ${at} bytes, planned ${bytes}`);
}

async function checked(tensor: Initializer): Promise<Uint8Array<ArrayBuffer>> {
  const data = await tensor.data();
  const bytes = initializerBytes(tensor);
  if (data.length !== bytes) throw new Error(`tensor ${tensor.name}: ${data.length} bytes for ${bytes}`);
  return data;
}
