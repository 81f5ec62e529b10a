/**
 * An ONNX program ─▶ the bytes of its ModelProto, in pieces: weights are asked for one by one as their turn comes.
 *
 * A protobuf message says its length before its content, so lengths are worked out first; tensors know theirs by shape.
 * One message may not pass 2 GiB: larger models keep their large tensors in files beside (`model.onnx_data`, `_data_1`,
 * …), each small enough for a browser to hold. Field numbers are onnx.proto's.
 */
import { BinaryWriter, WireType } from '@bufbuild/protobuf/wire';
import { DATA_TYPE, initializerBytes } from './lowering.ts';
import { IR_VERSION } from './lower.ts';
import type { Border, Initializer, NodeAttributes, OnnxNode, OnnxProgram } from './program.ts';

export interface EncodedFile {
  /** Beside the model: `name` itself, then `${name}_data`, `${name}_data_1`, … as transformers.js looks for them. */
  readonly path: string;
  readonly bytes: number;
  readonly data: () => AsyncGenerator<Uint8Array>;
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

  const tensors = program.initializers.map((tensor) => {
    const place = places.get(tensor);
    const head = tensorHead(tensor, place);
    return { tensor, head, inline: place ? 0 : initializerBytes(tensor), external: place !== undefined };
  });
  const body = graphBody(program);
  // field 5 of the graph: each a tag, a length, the head, and the raw data that closes it
  const framed = tensors.map((entry) => {
    const frame = new BinaryWriter()
      .tag(5, WireType.LengthDelimited)
      .uint32(entry.head.length + entry.inline)
      .finish();
    return { ...entry, frame };
  });
  const graphBytes = framed.reduce(
    (sum, { frame, head, inline }) => sum + frame.length + head.length + inline,
    body.length,
  );
  const model = modelHead(program, graphBytes);

  const main: EncodedFile = {
    path: name,
    bytes: model.length + graphBytes,
    async *data() {
      yield model;
      yield body;
      for (const { tensor, frame, head, external } of framed) {
        yield frame;
        yield head;
        if (!external) yield await checked(tensor);
      }
    },
  };
  return [
    main,
    ...chunks.map(({ path, entries, bytes }) => ({ path, bytes, data: () => externalData(entries, bytes) })),
  ];
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

async function* externalData(entries: Chunk['entries'], bytes: number): AsyncGenerator<Uint8Array> {
  let at = 0;
  for (const { tensor, place } of entries) {
    if (place.offset > at) yield new Uint8Array(place.offset - at);
    const data = await checked(tensor);
    yield data;
    at = place.offset + data.length;
  }
  if (at !== bytes) throw new Error(`external data of ${at} bytes, planned ${bytes}`);
}

async function checked(tensor: Initializer): Promise<Uint8Array> {
  const data = await tensor.data();
  const bytes = initializerBytes(tensor);
  if (data.length !== bytes) throw new Error(`tensor ${tensor.name}: ${data.length} bytes for ${bytes}`);
  return data;
}

/** Everything before the graph's content. */
function modelHead(program: OnnxProgram, graphBytes: number): Uint8Array {
  const writer = new BinaryWriter();
  writer.tag(1, WireType.Varint).int64(IR_VERSION);
  writer.tag(2, WireType.LengthDelimited).string('stillroom');
  for (const [domain, version] of Object.entries(program.opsets)) {
    writer.tag(8, WireType.LengthDelimited).fork();
    writer.tag(1, WireType.LengthDelimited).string(domain);
    writer.tag(2, WireType.Varint).int64(version);
    writer.join();
  }
  return writer.tag(7, WireType.LengthDelimited).uint32(graphBytes).finish();
}

/** The graph without its initializers. */
function graphBody(program: OnnxProgram): Uint8Array {
  const writer = new BinaryWriter();
  for (const node of program.nodes) writeNode(writer.tag(1, WireType.LengthDelimited), node);
  writer.tag(2, WireType.LengthDelimited).string(program.name);
  for (const input of program.inputs) writeBorder(writer.tag(11, WireType.LengthDelimited), input);
  for (const output of program.outputs) writeBorder(writer.tag(12, WireType.LengthDelimited), output);
  return writer.finish();
}

function writeNode(writer: BinaryWriter, node: OnnxNode): void {
  writer.fork();
  for (const input of node.inputs) writer.tag(1, WireType.LengthDelimited).string(input);
  for (const output of node.outputs) writer.tag(2, WireType.LengthDelimited).string(output);
  writer.tag(3, WireType.LengthDelimited).string(node.name);
  writer.tag(4, WireType.LengthDelimited).string(node.op);
  for (const [name, value] of Object.entries(node.attributes)) {
    writeAttribute(writer.tag(5, WireType.LengthDelimited), name, value);
  }
  if (node.domain !== '') writer.tag(7, WireType.LengthDelimited).string(node.domain);
  writer.join();
}

function writeAttribute(writer: BinaryWriter, name: string, value: NodeAttributes[string]): void {
  writer.fork().tag(1, WireType.LengthDelimited).string(name);
  let type: number;
  if ('float' in value) {
    type = 1;
    writer.tag(2, WireType.Bit32).float(value.float);
  } else if ('int' in value) {
    type = 2;
    writer.tag(3, WireType.Varint).int64(value.int);
  } else if ('string' in value) {
    type = 3;
    writer.tag(4, WireType.LengthDelimited).string(value.string);
  } else {
    type = 7;
    for (const int of value.ints) writer.tag(8, WireType.Varint).int64(int);
  }
  writer.tag(20, WireType.Varint).int32(type).join();
}

function writeBorder(writer: BinaryWriter, { name, type, shape }: Border): void {
  writer.fork().tag(1, WireType.LengthDelimited).string(name);
  writer.tag(2, WireType.LengthDelimited).fork().tag(1, WireType.LengthDelimited).fork();
  writer.tag(1, WireType.Varint).int32(DATA_TYPE[type]);
  writer.tag(2, WireType.LengthDelimited).fork();
  for (const size of shape) {
    writer.tag(1, WireType.LengthDelimited).fork();
    if (typeof size === 'number') writer.tag(1, WireType.Varint).int64(size);
    else writer.tag(2, WireType.LengthDelimited).string(size);
    writer.join();
  }
  writer.join().join().join().join();
}

/** A TensorProto up to its raw data: that closes it, so its bytes need not be here. */
function tensorHead(tensor: Initializer, place: Place | undefined): Uint8Array {
  const writer = new BinaryWriter();
  for (const size of tensor.shape) writer.tag(1, WireType.Varint).int64(size);
  writer.tag(2, WireType.Varint).int32(DATA_TYPE[tensor.type]);
  writer.tag(8, WireType.LengthDelimited).string(tensor.name);
  const bytes = initializerBytes(tensor);
  if (!place) return writer.tag(9, WireType.LengthDelimited).uint32(bytes).finish();
  const entries = { location: place.path, offset: String(place.offset), length: String(bytes) };
  for (const [key, value] of Object.entries(entries)) {
    writer.tag(13, WireType.LengthDelimited).fork();
    writer.tag(1, WireType.LengthDelimited).string(key);
    writer.tag(2, WireType.LengthDelimited).string(value).join();
  }
  return writer.tag(14, WireType.Varint).int32(1).finish();
}
