/**
 * The messages of onnx.proto that are small enough to be at hand: nodes, attributes, values, tensors, graphs in nodes.
 * Field numbers are onnx.proto's; fields that nothing here needs are passed over.
 */
import { BinaryReader, WireType } from '@bufbuild/protobuf/wire';
import { InputError } from './input-error.ts';
import {
  isBareName,
  onnxBytes,
  onnxTypes,
  type OnnxAttribute,
  type OnnxData,
  type OnnxGraph,
  type OnnxNode,
  type OnnxTensor,
  type OnnxType,
  type OnnxValue,
} from './onnx.ts';
import { forFields, textOrBytes, type FieldValue } from './protobuf-walk.ts';

type Bytes = Uint8Array<ArrayBuffer>;

/** Nodes, attributes, tensors, values and sizes together; a large language model has a few tens of thousands. */
const mostMessages = 500_000;
const deepestGraph = 16;

const typeByNumber = new Map<number | bigint, OnnxType>(
  (Object.keys(onnxTypes) as OnnxType[]).map((name) => [onnxTypes[name].number, name]),
);

/** The fields that may hold a tensor's elements, by what they hold. */
export const dataFields = { float: 4, int32: 5, int64: 7, raw: 9, double: 10, uint64: 11 } as const;
export const dataFieldNumbers: ReadonlySet<number> = new Set(Object.values(dataFields));

function typedField(dtype: OnnxType): number {
  if (dtype === 'FLOAT' || dtype === 'COMPLEX64') return dataFields.float;
  if (dtype === 'DOUBLE' || dtype === 'COMPLEX128') return dataFields.double;
  if (dtype === 'INT64') return dataFields.int64;
  return dtype === 'UINT32' || dtype === 'UINT64' ? dataFields.uint64 : dataFields.int32;
}

/** A tensor's elements that were left in the file. */
export interface DataInFile {
  readonly field: number;
  readonly bytes: number;
  readonly read: () => Promise<Bytes>;
}

export interface GraphParts {
  name: string;
  readonly nodes: OnnxNode[];
  readonly initializers: OnnxTensor[];
  readonly inputs: OnnxValue[];
  readonly outputs: OnnxValue[];
  readonly values: OnnxValue[];
}

export const emptyGraph = (): GraphParts => ({
  name: '',
  nodes: [],
  initializers: [],
  inputs: [],
  outputs: [],
  values: [],
});

/** Fields of a graph, but for its initializers. */
export const graphFields: readonly number[] = [1, 2, 11, 12, 13];

export class Messages {
  private count = 0;

  constructor(private readonly file: string) {}

  refuse(place: string, what: string, allowed: string): InputError {
    return new InputError(this.file, place, what, allowed);
  }

  private counted(): void {
    if (++this.count > mostMessages) throw this.refuse('', 'it has too many parts', `at most ${mostMessages}`);
  }

  graphField(graph: GraphParts, number: number, bytes: Bytes, depth: number): void {
    if (number === 1) graph.nodes.push(this.node(bytes, depth));
    else if (number === 2) graph.name = textOrBytes(bytes).toString();
    else if (number === 11) graph.inputs.push(this.value(bytes));
    else if (number === 12) graph.outputs.push(this.value(bytes));
    else graph.values.push(this.value(bytes));
  }

  /** A graph inside a node. */
  private innerGraph(bytes: Bytes, depth: number): OnnxGraph {
    if (depth > deepestGraph) throw this.refuse('graph', 'graphs in graphs', `at most ${deepestGraph} deep`);
    const graph = emptyGraph();
    const take = (value: FieldValue) => this.graphField(graph, value.number, value.bytes(), depth);
    forFields(bytes, {
      ...Object.fromEntries(graphFields.map((number) => [number, take])),
      5: (value) => graph.initializers.push(this.tensor(value.bytes())),
    });
    return this.checked(graph);
  }

  checked(graph: GraphParts): OnnxGraph {
    const names = new Set<string>();
    for (const { name } of graph.initializers) {
      if (names.has(name)) throw this.refuse(`tensor ${name}`, 'there are two of the name', 'every name once');
      names.add(name);
    }
    return graph;
  }

  private node(bytes: Bytes, depth: number): OnnxNode {
    this.counted();
    const inputs: string[] = [];
    const outputs: string[] = [];
    const attributes: OnnxAttribute[] = [];
    const node = { name: '', op_type: '', domain: '', inputs, outputs, attributes };
    forFields(bytes, {
      1: (value) => inputs.push(value.text()),
      2: (value) => outputs.push(value.text()),
      3: (value) => (node.name = value.text()),
      4: (value) => (node.op_type = value.text()),
      5: (value) => attributes.push(this.attribute(value.bytes(), depth)),
      7: (value) => (node.domain = onnxDomain(value.text())),
    });
    return node;
  }

  private attribute(bytes: Bytes, depth: number): OnnxAttribute {
    this.counted();
    const floats: number[] = [];
    const ints: (number | bigint)[] = [];
    const strings: (string | Uint8Array)[] = [];
    const found: {
      name: string;
      type: number | bigint;
      float: number;
      int: number | bigint;
      string: string | Uint8Array;
      tensor?: OnnxTensor;
      graph?: OnnxGraph;
    } = { name: '', type: 0, float: 0, int: 0, string: '' };
    forFields(bytes, {
      1: (value) => (found.name = value.text()),
      2: (value) => (found.float = value.float()),
      3: (value) => (found.int = value.int()),
      4: (value) => (found.string = textOrBytes(value.bytes())),
      5: (value) => (found.tensor = this.tensor(value.bytes())),
      6: (value) => (found.graph = this.innerGraph(value.bytes(), depth + 1)),
      7: (value) => value.floats((float) => floats.push(float)),
      8: (value) => value.ints((int) => ints.push(int)),
      9: (value) => strings.push(textOrBytes(value.bytes())),
      20: (value) => (found.type = value.int()),
    });
    const { name, type } = found;
    if (type === 1) return { name, type: 'float', value: found.float };
    if (type === 2) return { name, type: 'int', value: found.int };
    if (type === 3) return { name, type: 'string', value: found.string };
    if (type === 4 && found.tensor !== undefined) return { name, type: 'tensor', value: found.tensor };
    if (type === 5 && found.graph !== undefined) return { name, type: 'graph', value: found.graph };
    if (type === 6) return { name, type: 'floats', value: floats };
    if (type === 7) return { name, type: 'ints', value: ints };
    if (type === 8) return { name, type: 'strings', value: strings };
    throw this.refuse(
      `attribute ${name}`,
      `its type is number ${type}, or its value is missing`,
      '1 to 8, with a value',
    );
  }

  private value(bytes: Bytes): OnnxValue {
    this.counted();
    const found: { name: string; dtype?: OnnxType; shape?: (number | string | null)[] } = { name: '' };
    forFields(bytes, {
      1: (value) => (found.name = value.text()),
      2: (type) =>
        forFields(type.bytes(), {
          1: (tensor) =>
            forFields(tensor.bytes(), {
              1: (value) => (found.dtype = typeByNumber.get(value.int())),
              2: (value) => (found.shape = this.shape(value.bytes())),
            }),
        }),
    });
    return { name: found.name, dtype: found.dtype, shape: found.shape };
  }

  private shape(bytes: Bytes): (number | string | null)[] {
    const shape: (number | string | null)[] = [];
    forFields(bytes, {
      1: (dimension) => {
        this.counted();
        const at = shape.push(null) - 1;
        forFields(dimension.bytes(), {
          1: (value) => (shape[at] = Number(value.int())),
          2: (value) => (shape[at] = value.text()),
        });
      },
    });
    return shape;
  }

  opset(bytes: Bytes): [domain: string, version: number] {
    this.counted();
    const found = { domain: '', version: 0 };
    forFields(bytes, {
      1: (value) => (found.domain = onnxDomain(value.text())),
      2: (value) => (found.version = Number(value.int())),
    });
    return [found.domain, found.version];
  }

  /** A StringStringEntryProto. */
  entry(bytes: Bytes): [key: string, value: string] {
    this.counted();
    const found = { key: '', value: '' };
    forFields(bytes, { 1: (value) => (found.key = value.text()), 2: (value) => (found.value = value.text()) });
    return [found.key, found.value];
  }

  /** A tensor, all of it or without the elements that were left in the file. */
  tensor(bytes: Bytes, left?: DataInFile): OnnxTensor {
    this.counted();
    const dims: number[] = [];
    const entries: [string, string][] = [];
    const typed: { number: number; wire: WireType; bytes: Uint8Array }[] = [];
    const found: { name: string; type: number | bigint; external: boolean; raw?: Bytes } = {
      name: '',
      type: 0,
      external: false,
    };
    const elements = (value: FieldValue) => {
      this.counted(); // one by one they are as many as a model has parts
      typed.push({ number: value.number, wire: value.wire, bytes: value.encoded() });
    };
    forFields(bytes, {
      1: (value) => value.ints((size) => dims.push(Number(size))),
      2: (value) => (found.type = value.int()),
      [dataFields.float]: elements,
      [dataFields.int32]: elements,
      [dataFields.int64]: elements,
      [dataFields.double]: elements,
      [dataFields.uint64]: elements,
      8: (value) => (found.name = value.text()),
      [dataFields.raw]: (value) => (found.raw = value.bytes()),
      13: (value) => entries.push(this.entry(value.bytes())),
      14: (value) => (found.external = value.int() === 1),
    });
    const { name } = found;
    const place = `tensor ${name}`;
    const dtype = typeByNumber.get(found.type);
    if (dtype === undefined) {
      throw this.refuse(place, `its type is number ${found.type}`, Object.keys(onnxTypes).join(', '));
    }
    const expected = onnxBytes(dtype, dims);
    if (expected === undefined) {
      throw this.refuse(place, `its dims are ${dims.slice(0, 8)}`, 'whole numbers from 0, their product below 2^53');
    }
    const data = ((): OnnxData => {
      if (found.external) return this.external(place, Object.fromEntries(entries), expected);
      if (dtype === 'STRING') return new Uint8Array(0);
      if (left?.field === dataFields.raw) {
        this.expectBytes(place, left.bytes, expected);
        return left.read;
      }
      if (left !== undefined) {
        return async () => {
          const packed = { number: left.field, wire: WireType.LengthDelimited, bytes: await left.read() };
          return this.typedData(place, dtype, [packed], expected);
        };
      }
      if (found.raw === undefined) return this.typedData(place, dtype, typed, expected);
      this.expectBytes(place, found.raw.length, expected);
      return found.raw.slice();
    })();
    return { name, dtype, dims, data };
  }

  private expectBytes(place: string, bytes: number, expected: number): void {
    if (bytes !== expected) throw this.refuse(place, `it has ${bytes} bytes of data`, `${expected}, as its dims say`);
  }

  private external(place: string, entries: Record<string, string>, expected: number): OnnxData {
    const { location = '', offset = '0', length = String(expected) } = entries;
    if (!isBareName(location)) {
      throw this.refuse(place, `its data lie in ${JSON.stringify(location)}`, 'a bare file name: the file lies beside');
    }
    const isSize = (text: string) => /^\d{1,15}$/.test(text);
    if (!isSize(offset) || !isSize(length)) {
      throw this.refuse(place, `its data lie at ${offset}, ${length} bytes long`, 'whole numbers');
    }
    this.expectBytes(place, Number(length), expected);
    return { location, offset: Number(offset), length: Number(length) };
  }

  /** Data given element by element, as the bytes they stand for. */
  private typedData(
    place: string,
    dtype: OnnxType,
    fields: readonly { number: number; wire: WireType; bytes: Uint8Array }[],
    expected: number,
  ): Bytes {
    const wanted = typedField(dtype);
    const fitting = fields.filter((field) => field.number === wanted);
    const given = fitting.reduce((sum, { bytes }) => sum + bytes.length, 0);
    // An element takes a byte of the file at least: no claim of the dims is believed before they are there.
    if (fitting.length !== fields.length || expected > given * 8) {
      throw this.refuse(place, `it has ${given} bytes of data`, `${dtype} elements for ${expected}, as its dims say`);
    }
    const data = new Uint8Array(expected);
    const tooMany = () => this.refuse(place, 'it has too many elements', `${expected} bytes, as its dims say`);
    let at = 0;
    for (const { wire, bytes } of fitting) {
      if (wanted === dataFields.float || wanted === dataFields.double) {
        if (at + bytes.length > expected) throw tooMany();
        data.set(bytes, at);
        at += bytes.length;
        continue;
      }
      if (wire !== WireType.LengthDelimited && wire !== WireType.Varint)
        throw new Error(`elements of wire type ${wire}`);
      const width = Math.max(1, onnxTypes[dtype].bits / 8);
      const reader = new BinaryReader(bytes);
      while (reader.pos < reader.len) {
        let bits = BigInt.asUintN(64, BigInt(reader.int64()));
        if (at + width > expected) throw tooMany();
        for (let i = 0; i < width; i++, bits >>= 8n) data[at++] = Number(bits & 255n);
      }
    }
    this.expectBytes(place, at, expected);
    return data;
  }
}

/** ONNX's own operators have two names for their domain. */
function onnxDomain(domain: string): string {
  return domain === 'ai.onnx' ? '' : domain;
}
