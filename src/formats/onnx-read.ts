/**
 * Reads an ONNX file into an OnnxModel. The two outer messages, model and graph, are walked field by field without being
 * read whole; a large initializer is left where it is, as a range of the file. Whatever the file claims, no more than its
 * own size is allocated, and the number of messages in it is bounded.
 */
import { WireType } from '@bufbuild/protobuf/wire';
import { collectBytes, type ByteSource } from './byte-source.ts';
import { InputError } from './input-error.ts';
import { dataFieldNumbers, emptyGraph, graphFields, Messages } from './onnx-messages.ts';
import type { OnnxGraph, OnnxModel, OnnxTensor } from './onnx.ts';
import { decodeText, FieldWalk, type Field } from './protobuf-walk.ts';

/** Initializers up to this size are read with the graph. */
const smallTensor = 64 * 1024;
/** Fields of an initializer that are shorter than this are never left in the file. */
const smallField = 1024;

export async function openOnnx(source: ByteSource): Promise<OnnxModel> {
  try {
    return await readModel(source);
  } catch (error) {
    // What readers of the wire format throw on bytes that are no message.
    if (error instanceof RangeError || (error instanceof Error && error.constructor === Error)) {
      throw new InputError(source.name, '', `it is no valid protobuf (${error.message})`, 'a whole ONNX file');
    }
    throw error;
  }
}

async function readModel(source: ByteSource): Promise<OnnxModel> {
  const walk = new FieldWalk(source);
  const messages = new Messages(source.name);
  const bytesOf = (field: Field) => walk.bytes(...rangeOf(field));
  const unread = new Set<string>();
  const opsets: [string, number][] = [];
  const metadata: [string, string][] = [];
  let ir_version = 0;
  let producer_name = '';
  let producer_version = '';
  let graph: OnnxGraph | undefined;
  for await (const field of walk.fields(0, source.size)) {
    switch (field.number) {
      case 1:
        ir_version = Number(field.varint ?? 0);
        break;
      case 2:
        producer_name = decodeText(await bytesOf(field));
        break;
      case 3:
        producer_version = decodeText(await bytesOf(field));
        break;
      case 7:
        if (graph !== undefined) throw messages.refuse('graph', 'there are two', 'one graph');
        graph = await readGraph(walk, messages, source, field, unread);
        break;
      case 8:
        opsets.push(messages.opset(await bytesOf(field)));
        break;
      case 14:
        metadata.push(messages.entry(await bytesOf(field)));
        break;
      case 20:
        unread.add('training_info');
        break;
      case 25:
        unread.add('functions');
        break;
    }
  }
  if (graph === undefined) throw messages.refuse('graph', 'there is none', 'an ONNX model');
  if (ir_version < 1) throw messages.refuse('ir_version', `it is ${ir_version}`, 'an ONNX model, which names it');
  return {
    ir_version,
    producer_name,
    producer_version,
    opsets: Object.fromEntries(opsets),
    metadata: Object.fromEntries(metadata),
    graph,
    unread: [...unread],
  };
}

async function readGraph(
  walk: FieldWalk,
  messages: Messages,
  source: ByteSource,
  message: Field,
  unread: Set<string>,
): Promise<OnnxGraph> {
  const graph = emptyGraph();
  for await (const field of walk.fields(...rangeOf(message))) {
    if (field.number === 5) graph.initializers.push(await readInitializer(walk, messages, source, field));
    else if (field.number === 14) unread.add('quantization_annotation');
    else if (field.number === 15) unread.add('sparse_initializer');
    else if (graphFields.includes(field.number)) {
      messages.graphField(graph, field.number, await walk.bytes(...rangeOf(field)), 0);
    }
  }
  return messages.checked(graph);
}

/** Whole where it is small, else all of it but its elements. */
async function readInitializer(
  walk: FieldWalk,
  messages: Messages,
  source: ByteSource,
  message: Field,
): Promise<OnnxTensor> {
  const [start, end] = rangeOf(message);
  if (end - start <= smallTensor) return messages.tensor(await walk.bytes(start, end));
  const rest: Uint8Array[] = [];
  let elements: Field | undefined;
  for await (const field of walk.fields(start, end)) {
    const size = field.end - field.tagStart;
    if (dataFieldNumbers.has(field.number) && field.wire === WireType.LengthDelimited && size > smallField) {
      if (elements !== undefined) throw messages.refuse('tensor', 'its data are there twice', 'one field of data');
      elements = field;
    } else if (size <= smallTensor) {
      rest.push((await walk.bytes(field.tagStart, field.end)).slice());
    } // what is large and no data is a comment
  }
  if (elements === undefined) return messages.tensor(await collectBytes(rest));
  const { number, start: from, end: to } = elements;
  return messages.tensor(await collectBytes(rest), {
    field: number,
    bytes: to - from,
    read: () => source.read(from, to),
  });
}

function rangeOf(field: Field): [start: number, end: number] {
  if (field.wire !== WireType.LengthDelimited) throw new Error(`field ${field.number} has wire type ${field.wire}`);
  return [field.start, field.end];
}
