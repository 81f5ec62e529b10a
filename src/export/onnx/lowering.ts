/**
 * What an op's lowering writes with: names of values, nodes, constants, and the precision that the file is written in.
 *
 * A value is lowered when it is first asked for, so whatever no output needs never reaches the file. Each lowered value
 * knows its element type, and is cast where a consumer asks for another: a file of half precision keeps the residual
 * stream, norms and logits in single, and only what multiplies in half.
 */
import type { Graph } from '../../engine/graph/graph.ts';
import { concrete, type Dim, type Node, type Value } from '../../engine/graph/types.ts';
import { f32ToF16 } from '../../formats/half.ts';
import type { TensorFile } from '../../formats/tensor-file.ts';
import { PAST } from './sizes.ts';
import type { Precision } from './precision/precision.ts';
import {
  elementBytes,
  type Border,
  type ElementType,
  type Initializer,
  type NodeAttributes,
  type OnnxNode,
} from './program.ts';

/** `ort` may use ONNX Runtime's own operators, `standard` only ONNX's. */
export type Flavour = 'ort' | 'standard';

/** One graph op in ONNX; `lower` answers with the name and element type of each output that it made. */
export type OpLowering = (c: Lowering, node: Node) => readonly Lowered[];

export interface Lowered {
  readonly name: string;
  readonly type: ElementType;
  /** Caches lie [batch, key-value heads, tokens, head size] at the border; everything else as in the graph. */
  readonly layout?: 'heads-first';
}

export interface LoweringOptions {
  readonly graph: Graph;
  readonly weights: Pick<TensorFile, 'readF32'>;
  readonly precision: Precision;
  readonly flavour: Flavour;
  readonly lowerings: Readonly<Record<string, OpLowering>>;
}

export class Lowering {
  readonly nodes: OnnxNode[] = [];
  readonly inputs: Border[] = [];
  readonly initializers = new Map<string, Initializer>();
  readonly precision: Precision;
  readonly flavour: Flavour;
  private readonly lowered = new Map<Value, Lowered>();
  private readonly made = new Map<string, string>();
  private readonly labels = new Map<Node, string>();
  private current = '';
  private count = 0;

  constructor(private readonly options: LoweringOptions) {
    this.precision = options.precision;
    this.flavour = options.flavour;
  }

  get graph(): Graph {
    return this.options.graph;
  }

  /** The name under which a value is known in the file, as `type` (activations' type by default; integers stay int64). */
  get(value: Value, type?: ElementType): string {
    const known = this.lower(value);
    const wanted = type ?? (value.type.dtype === 'i32' ? 'INT64' : this.precision.float);
    return this.cast(known.name, known.type, wanted);
  }

  /** Like `get`, for values whose layout at the border may differ from the graph's. */
  lower(value: Value): Lowered {
    const known = this.lowered.get(value) ?? this.source(value);
    if (known) return known;
    const { node } = value;
    const lowering = this.options.lowerings[node.op.name];
    if (!lowering) throw new Error(`'${node.op.name}' cannot be written as ONNX yet`);
    const outer = this.current;
    this.current = nodeLabel(this.graph, node, this.labels);
    lowering(this, node).forEach((result, i) => this.lowered.set(node.outputs[i]!, result));
    this.current = outer;
    const result = this.lowered.get(value);
    if (!result) throw new Error(`output ${value.index} of '${node.op.name}' has no meaning in an ONNX file`);
    return result;
  }

  /** Adds a node and answers with the name of its first output. */
  emit(
    op: string,
    inputs: readonly string[],
    attributes: NodeAttributes = {},
    options: { domain?: string } = {},
  ): string {
    const name = `${this.current === '' ? 'graph' : this.current}/${op}_${this.count++}`;
    const output = `${name}:0`;
    this.nodes.push({ name, op, domain: options.domain ?? '', inputs: [...inputs], outputs: [output], attributes });
    return output;
  }

  /** For operators with several outputs. */
  emitMany(op: string, inputs: readonly string[], outputs: number, attributes: NodeAttributes = {}): string[] {
    const name = `${this.current === '' ? 'graph' : this.current}/${op}_${this.count++}`;
    const names = Array.from({ length: outputs }, (_, i) => `${name}:${i}`);
    this.nodes.push({ name, op, domain: '', inputs: [...inputs], outputs: names, attributes });
    return names;
  }

  /** Made once a file and shared: masks, tables at the positions, quantised activations. */
  once(key: string, make: () => string): string {
    const known = this.made.get(key);
    if (known !== undefined) return known;
    const name = make();
    this.made.set(key, name);
    return name;
  }

  cast(name: string, from: ElementType, to: ElementType): string {
    if (from === to) return name;
    return this.once(`cast ${name} ${to}`, () => this.emit('Cast', [name], { to: { int: DATA_TYPE[to] } }));
  }

  /** A one-dimensional int64 constant. */
  ints(values: readonly number[]): string {
    return this.constant(`ints_${values.join('_')}`, 'INT64', [values.length], BigInt64Array.from(values, BigInt));
  }

  /** An int64 scalar. */
  int(value: number): string {
    return this.constant(`int_${value}`, 'INT64', [], BigInt64Array.of(BigInt(value)));
  }

  /** A float scalar of the activations' type, or of the type named. */
  float(value: number, type: ElementType = this.precision.float): string {
    const data = Float32Array.of(value);
    return this.constant(`${type.toLowerCase()}_${value}`, type, [], type === 'FLOAT16' ? f32ToF16(data) : data);
  }

  byte(value: number): string {
    return this.constant(`uint8_${value}`, 'UINT8', [], Uint8Array.of(value));
  }

  private constant(
    name: string,
    type: ElementType,
    shape: readonly number[],
    data: ArrayBufferView<ArrayBuffer>,
  ): string {
    return this.initializer({ name, type, shape, data: () => bytesOfView(data) });
  }

  /** The same name is the same tensor. */
  initializer(initializer: Initializer): string {
    if (!this.initializers.has(initializer.name)) this.initializers.set(initializer.name, initializer);
    return initializer.name;
  }

  /** A weight as the folder holds it; f32. */
  readWeight(name: string): Promise<Float32Array<ArrayBuffer>> {
    return this.options.weights.readF32(name);
  }

  /** A size as a one-element int64 vector; where only the caller knows it, read off the input that has it. */
  dim(size: Dim): string {
    if (typeof size === 'number') return this.ints([size]);
    return this.once(`dim ${size}`, () => {
      for (const { kind, value } of this.graph.sources.values()) {
        const axis = value.type.shape.indexOf(size);
        // a cache's axes lie elsewhere at the border
        if (kind !== 'input' || axis < 0) continue;
        return this.emit('Shape', [this.get(value, 'INT64')], { start: { int: axis }, end: { int: axis + 1 } });
      }
      throw new Error(`no input has an axis of size '${size}'`);
    });
  }

  private source(value: Value): Lowered | undefined {
    const source = this.graph.sourceOf(value);
    if (!source) return undefined;
    const lowered = this.lowerSource(source.name, value);
    this.lowered.set(value, lowered);
    return lowered;
  }

  private lowerSource(name: string, value: Value): Lowered {
    const { kind, data } = this.graph.sourceOf(value)!;
    if (kind === 'constant') {
      const shape = concrete(value.type.shape);
      const type: ElementType = data instanceof Int32Array ? 'INT64' : this.precision.float;
      this.initializer({
        name,
        type,
        shape,
        data: () => {
          if (data instanceof Int32Array) return bytesOfView(BigInt64Array.from(data, BigInt));
          return bytesOfView(type === 'FLOAT16' ? f32ToF16(data!) : Float32Array.from(data!));
        },
      });
      return { name, type };
    }
    if (kind === 'parameter') {
      // vectors (norms, biases) in single precision; matrices are the precision's own business
      this.initializer({
        name,
        type: 'FLOAT',
        shape: concrete(value.type.shape),
        data: async () => bytesOfView(await this.readWeight(name)),
      });
      return { name, type: 'FLOAT' };
    }
    const cache = cacheOf(value, this.graph);
    const type: ElementType = value.type.dtype === 'i32' ? 'INT64' : cache ? this.precision.float : 'FLOAT';
    const shape = cache ? [value.type.shape[0]!, cache.kv_heads, PAST, cache.head_dim] : value.type.shape;
    this.inputs.push({ name, type, shape });
    return cache ? { name, type, layout: 'heads-first' } : { name, type };
  }
}

/** Where a node stands in the model: the module path of its weight, or its op after that of what it reads. */
export function nodeLabel(graph: Graph, node: Node, known = new Map<Node, string>()): string {
  const before = known.get(node);
  if (before !== undefined) return before;
  const weight = node.inputs.map((value) => graph.sourceOf(value)).find((source) => source?.kind === 'parameter');
  const input = node.inputs.find((value) => graph.sourceOf(value) === undefined);
  const place = weight
    ? weight.name.replace(/\.weight$/, '')
    : input && nodeLabel(graph, input.node, known).replace(/\/[^/]*$/, '');
  const label = place === undefined ? node.op.name : `${place}/${node.op.name}`;
  known.set(node, label);
  return label;
}

export interface CacheShape {
  readonly kv_heads: number;
  readonly head_dim: number;
}

/** The heads of a key-value cache, from the attention that reads what was appended to it; undefined for other values. */
export function cacheOf(value: Value, graph: Graph): CacheShape | undefined {
  const append = graph.nodes.find((node) => node.op.name === 'kv-append' && node.inputs[0] === value);
  const reader =
    append && graph.nodes.find((node) => node.op.name === 'attention' && node.inputs.includes(append.outputs[0]!));
  return reader && (reader.attributes as unknown as CacheShape);
}

/** onnx.TensorProto.DataType */
export const DATA_TYPE: Readonly<Record<ElementType, number>> = {
  FLOAT: 1,
  UINT8: 2,
  INT8: 3,
  INT64: 7,
  BOOL: 9,
  FLOAT16: 10,
};

export function bytesOfView(view: ArrayBufferView<ArrayBuffer>): Uint8Array<ArrayBuffer> {
  return new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
}

export function initializerBytes(initializer: Initializer): number {
  return initializer.shape.reduce((product, size) => product * size, 1) * elementBytes(initializer.type);
}
