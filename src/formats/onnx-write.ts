/**
 * An ONNX model as the bytes of its ModelProto, in pieces: a tensor's data are asked for when their turn comes.
 *
 * A protobuf message says its length before its content, so lengths are worked out first; a tensor's follows from its
 * dims, and its raw data close its message. Field numbers are onnx.proto's.
 */
import { BinaryWriter, WireType } from '@bufbuild/protobuf/wire';
import {
  isBareName,
  isExternal,
  onnxBytes,
  onnxTypes,
  type OnnxAttribute,
  type OnnxGraph,
  type OnnxModel,
  type OnnxNode,
  type OnnxTensor,
  type OnnxValue,
} from './onnx.ts';

type Bytes = Uint8Array<ArrayBuffer>;

/** What protobuf readers take: 2 GiB less one byte. */
const largestMessage = 2 ** 31 - 1;

/** Bytes of the file, and the file. Throws where it would be too long: large tensors then belong in files beside. */
export function encodeOnnx(model: OnnxModel): { bytes: number; data: () => AsyncGenerator<Bytes, void, undefined> } {
  const tensors = model.graph.initializers.map((tensor) => {
    const inline = isExternal(tensor.data) ? 0 : tensorBytes(tensor);
    if (inline > largestMessage)
      throw new Error(`tensor ${tensor.name}: ${inline} bytes, protobuf holds ${largestMessage}`);
    const head = tensorHead(tensor);
    const frame = new BinaryWriter()
      .tag(5, WireType.LengthDelimited)
      .uint32(head.length + inline)
      .finish();
    return { tensor, head, frame, inline };
  });
  const body = new BinaryWriter();
  writeGraphBody(body, model.graph);
  const graphBody = body.finish();
  const graphBytes = tensors.reduce((sum, t) => sum + t.frame.length + t.head.length + t.inline, graphBody.length);
  if (graphBytes > largestMessage) throw new Error(`a graph of ${graphBytes} bytes: protobuf holds ${largestMessage}`);
  const head = modelHead(model, graphBytes);
  return {
    bytes: head.length + graphBytes,
    async *data() {
      yield head;
      yield graphBody;
      for (const { tensor, head, frame, inline } of tensors) {
        yield frame;
        yield head;
        if (inline > 0) yield* tensorData(tensor, inline);
      }
    },
  };
}

async function* tensorData({ name, data }: OnnxTensor, expected: number): AsyncGenerator<Bytes, void, undefined> {
  if (isExternal(data)) return;
  const given = typeof data === 'function' ? await data() : data;
  let length = 0;
  for await (const piece of given instanceof Uint8Array ? [given] : given) {
    length += piece.length;
    if (length > expected) break;
    yield piece;
  }
  if (length !== expected) throw new Error(`tensor ${name}: its data are not the ${expected} bytes of its dims`);
}

function tensorBytes({ name, dtype, dims }: OnnxTensor): number {
  const bytes = onnxBytes(dtype, dims);
  if (bytes === undefined || dtype === 'STRING') throw new Error(`tensor ${name}: ${dtype} ${dims} can't be written`);
  return bytes;
}

/** Everything before the graph's content. */
function modelHead(model: OnnxModel, graphBytes: number): Bytes {
  if (model.unread.length > 0) throw new Error(`a model that was not read whole: ${model.unread.join(', ')}`);
  const writer = new BinaryWriter();
  writer.tag(1, WireType.Varint).int64(model.ir_version);
  text(writer, 2, model.producer_name);
  text(writer, 3, model.producer_version);
  for (const [domain, version] of Object.entries(model.opsets)) {
    writer.tag(8, WireType.LengthDelimited).fork();
    writer.tag(1, WireType.LengthDelimited).string(domain);
    writer.tag(2, WireType.Varint).int64(version).join();
  }
  for (const [key, value] of Object.entries(model.metadata))
    writeEntry(writer.tag(14, WireType.LengthDelimited), key, value);
  return writer.tag(7, WireType.LengthDelimited).uint32(graphBytes).finish();
}

/** The graph without its initializers. */
function writeGraphBody(writer: BinaryWriter, graph: OnnxGraph): void {
  for (const node of graph.nodes) writeNode(writer.tag(1, WireType.LengthDelimited), node);
  text(writer, 2, graph.name);
  for (const value of graph.inputs) writeValue(writer.tag(11, WireType.LengthDelimited), value);
  for (const value of graph.outputs) writeValue(writer.tag(12, WireType.LengthDelimited), value);
  for (const value of graph.values) writeValue(writer.tag(13, WireType.LengthDelimited), value);
}

function writeNode(writer: BinaryWriter, node: OnnxNode): void {
  writer.fork();
  for (const input of node.inputs) writer.tag(1, WireType.LengthDelimited).string(input);
  for (const output of node.outputs) writer.tag(2, WireType.LengthDelimited).string(output);
  text(writer, 3, node.name);
  text(writer, 4, node.op_type);
  for (const attribute of node.attributes) writeAttribute(writer.tag(5, WireType.LengthDelimited), attribute);
  text(writer, 7, node.domain);
  writer.join();
}

const attributeTypes = { float: 1, int: 2, string: 3, tensor: 4, graph: 5, floats: 6, ints: 7, strings: 8 } as const;

function writeAttribute(writer: BinaryWriter, attribute: OnnxAttribute): void {
  writer.fork();
  text(writer, 1, attribute.name);
  switch (attribute.type) {
    case 'float':
      writer.tag(2, WireType.Bit32).float(attribute.value);
      break;
    case 'int':
      writer.tag(3, WireType.Varint).int64(attribute.value);
      break;
    case 'string':
      writeBytes(writer.tag(4, WireType.LengthDelimited), attribute.value);
      break;
    case 'tensor':
      writeInlineTensor(writer.tag(5, WireType.LengthDelimited), attribute.value);
      break;
    case 'graph':
      writer.tag(6, WireType.LengthDelimited).fork();
      writeGraphBody(writer, attribute.value);
      for (const tensor of attribute.value.initializers) {
        writeInlineTensor(writer.tag(5, WireType.LengthDelimited), tensor);
      }
      writer.join();
      break;
    case 'floats':
      for (const value of attribute.value) writer.tag(7, WireType.Bit32).float(value);
      break;
    case 'ints':
      for (const value of attribute.value) writer.tag(8, WireType.Varint).int64(value);
      break;
    case 'strings':
      for (const value of attribute.value) writeBytes(writer.tag(9, WireType.LengthDelimited), value);
      break;
  }
  writer.tag(20, WireType.Varint).int32(attributeTypes[attribute.type]).join();
}

function writeBytes(writer: BinaryWriter, value: string | Uint8Array): void {
  if (typeof value === 'string') writer.string(value);
  else writer.bytes(value);
}

/** A tensor inside a node: small, and at hand. */
function writeInlineTensor(writer: BinaryWriter, tensor: OnnxTensor): void {
  const { data } = tensor;
  if (typeof data === 'function') throw new Error(`tensor ${tensor.name}: in a node its data must be at hand`);
  writer.fork().raw(tensorHead(tensor));
  if (!isExternal(data)) {
    if (data.length !== tensorBytes(tensor)) throw new Error(`tensor ${tensor.name}: its data are not of its dims`);
    writer.raw(data);
  }
  writer.join();
}

/** A TensorProto up to its raw data, which close it. */
function tensorHead(tensor: OnnxTensor): Bytes {
  const writer = new BinaryWriter();
  const bytes = tensorBytes(tensor);
  for (const size of tensor.dims) writer.tag(1, WireType.Varint).int64(size);
  writer.tag(2, WireType.Varint).int32(onnxTypes[tensor.dtype].number);
  text(writer, 8, tensor.name);
  if (!isExternal(tensor.data)) return writer.tag(9, WireType.LengthDelimited).uint32(bytes).finish();
  const { location, offset, length } = tensor.data;
  if (!isBareName(location) || length !== bytes) throw new Error(`tensor ${tensor.name}: ${location} can't hold it`);
  for (const [key, value] of Object.entries({ location, offset: String(offset), length: String(length) })) {
    writeEntry(writer.tag(13, WireType.LengthDelimited), key, value);
  }
  return writer.tag(14, WireType.Varint).int32(1).finish();
}

function writeValue(writer: BinaryWriter, { name, dtype, shape }: OnnxValue): void {
  writer.fork();
  text(writer, 1, name);
  if (dtype !== undefined) {
    writer.tag(2, WireType.LengthDelimited).fork().tag(1, WireType.LengthDelimited).fork();
    writer.tag(1, WireType.Varint).int32(onnxTypes[dtype].number);
    if (shape !== undefined) {
      writer.tag(2, WireType.LengthDelimited).fork();
      for (const size of shape) {
        writer.tag(1, WireType.LengthDelimited).fork();
        if (typeof size === 'number') writer.tag(1, WireType.Varint).int64(size);
        else if (size !== null) writer.tag(2, WireType.LengthDelimited).string(size);
        writer.join();
      }
      writer.join();
    }
    writer.join().join();
  }
  writer.join();
}

function writeEntry(writer: BinaryWriter, key: string, value: string): void {
  writer.fork();
  writer.tag(1, WireType.LengthDelimited).string(key);
  writer.tag(2, WireType.LengthDelimited).string(value).join();
}

/** '' is what an absent string reads as. */
function text(writer: BinaryWriter, field: number, value: string): void {
  if (value !== '') writer.tag(field, WireType.LengthDelimited).string(value);
}
