/**
 * What an ONNX file is, without loading it: operators, inputs and outputs, opsets, initializers by type. The protobuf is
 * walked field by field through small reads; the tensors themselves are stepped over, so that 2 GB cost kilobytes.
 * Field numbers: onnx.proto (ModelProto, GraphProto, NodeProto, TensorProto, ValueInfoProto).
 */
import type { ByteSource } from './byte-source.ts';
import { InputError } from './input-error.ts';

export interface OnnxValue {
  readonly name: string;
  /** As ONNX names it: FLOAT, INT64 … */
  readonly type: string;
  /** Numbers, names of free dimensions, '?' where neither is said. */
  readonly shape: readonly (number | string)[];
}

export interface OnnxSummary {
  readonly ir_version: number;
  readonly producer: string;
  /** Domain → version; ONNX's own is ''. */
  readonly opsets: Readonly<Record<string, number>>;
  /** Operator → how often; with its domain where it is not ONNX's own. */
  readonly operators: Readonly<Record<string, number>>;
  readonly inputs: readonly OnnxValue[];
  readonly outputs: readonly OnnxValue[];
  /** Elements of all initializers. */
  readonly parameters: number;
  /** Type → how many initializers. */
  readonly dtypes: Readonly<Record<string, number>>;
  /** Files that hold initializers, beside this one. */
  readonly external: readonly string[];
}

/** TensorProto.DataType */
const TYPES = (
  'UNDEFINED FLOAT UINT8 INT8 UINT16 INT16 INT32 INT64 STRING BOOL FLOAT16 DOUBLE UINT32 UINT64 COMPLEX64 COMPLEX128 ' +
  'BFLOAT16 FLOAT8E4M3FN FLOAT8E4M3FNUZ FLOAT8E5M2 FLOAT8E5M2FNUZ UINT4 INT4 FLOAT4E2M1'
).split(' ');
const WINDOW = 64 * 1024;
/** Names and the like; a longer one is no ONNX of ours or anybody's. */
const LONGEST_TEXT = 1 << 16;

export async function summarizeOnnx(source: ByteSource): Promise<OnnxSummary> {
  const reader = new Reader(source);
  const opsets: Record<string, number> = {};
  const found = { ir_version: 0, producer: '', graph: false };
  const graph = new GraphSeen();
  for await (const field of reader.fields(0, source.size)) {
    if (field.number === 1) found.ir_version = field.value;
    else if (field.number === 2) found.producer = await reader.text(field);
    else if (field.number === 7) {
      found.graph = true;
      await graph.read(reader, field);
    } else if (field.number === 8) {
      let domain = '';
      let version = 0;
      for await (const part of reader.inside(field)) {
        if (part.number === 1) domain = await reader.text(part);
        if (part.number === 2) version = part.value;
      }
      opsets[domain === 'ai.onnx' ? '' : domain] = version;
    }
  }
  if (!found.graph || found.ir_version === 0) throw new InputError(source.name, '', 'holds no graph', 'an ONNX model');
  const { operators, inputs, outputs, parameters, dtypes, external, initializers } = graph;
  return {
    ir_version: found.ir_version,
    producer: found.producer,
    opsets,
    operators,
    // Older exporters list initializers among the inputs.
    inputs: inputs.filter(({ name }) => !initializers.has(name)),
    outputs,
    parameters,
    dtypes,
    external: [...external],
  };
}

class GraphSeen {
  readonly operators: Record<string, number> = {};
  readonly inputs: OnnxValue[] = [];
  readonly outputs: OnnxValue[] = [];
  readonly dtypes: Record<string, number> = {};
  readonly external = new Set<string>();
  readonly initializers = new Set<string>();
  parameters = 0;

  async read(reader: Reader, graph: Field): Promise<void> {
    for await (const field of reader.inside(graph)) {
      if (field.number === 1) await this.node(reader, field);
      else if (field.number === 5) await this.initializer(reader, field);
      else if (field.number === 11) this.inputs.push(await readValue(reader, field));
      else if (field.number === 12) this.outputs.push(await readValue(reader, field));
    }
  }

  private async node(reader: Reader, node: Field): Promise<void> {
    let type = '';
    let domain = '';
    for await (const field of reader.inside(node)) {
      if (field.number === 4) type = await reader.text(field);
      if (field.number === 7) domain = await reader.text(field);
    }
    const name = domain === '' || domain === 'ai.onnx' ? type : `${domain}.${type}`;
    this.operators[name] = (this.operators[name] ?? 0) + 1;
  }

  private async initializer(reader: Reader, tensor: Field): Promise<void> {
    let elements = 1;
    let type = 'UNDEFINED';
    for await (const field of reader.inside(tensor)) {
      if (field.number === 1) for (const size of await reader.numbers(field)) elements *= size;
      else if (field.number === 2) type = typeName(field.value);
      else if (field.number === 8) this.initializers.add(await reader.text(field));
      else if (field.number === 13) await this.externalData(reader, field);
    }
    this.dtypes[type] = (this.dtypes[type] ?? 0) + 1;
    this.parameters += elements;
  }

  private async externalData(reader: Reader, entry: Field): Promise<void> {
    let key = '';
    let value = '';
    for await (const field of reader.inside(entry)) {
      if (field.number === 1) key = await reader.text(field);
      if (field.number === 2) value = await reader.text(field);
    }
    if (key === 'location') this.external.add(value);
  }
}

async function readValue(reader: Reader, info: Field): Promise<OnnxValue> {
  let name = '';
  let type = 'UNDEFINED';
  const shape: (number | string)[] = [];
  for await (const field of reader.inside(info)) {
    if (field.number === 1) name = await reader.text(field);
    if (field.number !== 2) continue;
    for await (const kind of reader.inside(field)) {
      if (kind.number !== 1) continue;
      for await (const tensor of reader.inside(kind)) {
        if (tensor.number === 1) type = typeName(tensor.value);
        if (tensor.number !== 2) continue;
        for await (const dim of reader.inside(tensor)) {
          let size: number | string = '?';
          for await (const part of reader.inside(dim)) {
            if (part.number === 1) size = part.value;
            if (part.number === 2) size = await reader.text(part);
          }
          shape.push(size);
        }
      }
    }
  }
  return { name, type, shape };
}

const typeName = (code: number): string => TYPES[code] ?? `type ${code}`;

/** A field of a message: its number as a varint, or where its bytes lie. */
interface Field {
  readonly number: number;
  readonly value: number;
  readonly start: number;
  readonly end: number;
}

/** Protobuf's wire format, over a window of the file. */
class Reader {
  private window = new Uint8Array(0);
  private at = 0;

  constructor(private readonly source: ByteSource) {}

  async *fields(start: number, end: number): AsyncGenerator<Field> {
    for (let at = start; at < end;) {
      const tag = await this.varint(at, end);
      const number = Math.floor(tag.value / 8);
      const wire = tag.value % 8;
      if (number === 0) throw this.wrong(at, 'is no protobuf');
      let field: Field;
      if (wire === 0) {
        const { value, next } = await this.varint(tag.next, end);
        field = { number, value, start: tag.next, end: next };
      } else if (wire === 2) {
        const { value: length, next } = await this.varint(tag.next, end);
        field = { number, value: 0, start: next, end: next + length };
      } else if (wire === 1 || wire === 5) {
        field = { number, value: 0, start: tag.next, end: tag.next + (wire === 1 ? 8 : 4) };
      } else {
        throw this.wrong(at, `has the unknown wire type ${wire}`);
      }
      if (field.end > end) throw this.wrong(at, 'says that it goes on beyond its end');
      yield field;
      at = field.end;
    }
  }

  inside(field: Field): AsyncGenerator<Field> {
    return this.fields(field.start, field.end);
  }

  async text(field: Field): Promise<string> {
    if (field.end - field.start > LONGEST_TEXT) throw this.wrong(field.start, 'holds a name of more than 64 KiB');
    return new TextDecoder().decode(await this.source.read(field.start, field.end));
  }

  /** A repeated number, packed or one by one. */
  async numbers(field: Field): Promise<number[]> {
    // A varint alone has its bytes where a packed list would have them.
    const values: number[] = [];
    for (let at = field.start; at < field.end && values.length < 64;) {
      const { value, next } = await this.varint(at, field.end);
      values.push(value);
      at = next;
    }
    return values;
  }

  private async varint(at: number, end: number): Promise<{ value: number; next: number }> {
    let value = 0;
    for (let i = 0; i < 10; i++) {
      if (at + i >= end) throw this.wrong(at, 'is cut short');
      const byte = await this.byte(at + i);
      value += (byte & 0x7f) * 2 ** (7 * i);
      if (byte < 0x80) return { value, next: at + i + 1 };
    }
    throw this.wrong(at, 'is no protobuf');
  }

  private async byte(at: number): Promise<number> {
    if (at < this.at || at >= this.at + this.window.length) {
      this.at = at;
      this.window = await this.source.read(at, Math.min(this.source.size, at + WINDOW));
    }
    return this.window[at - this.at]!;
  }

  private wrong(at: number, what: string): InputError {
    return new InputError(this.source.name, `byte ${at}`, what, 'an ONNX model, whole');
  }
}
