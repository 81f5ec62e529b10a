/**
 * Building a graph: sources are named here, ops add themselves by `apply`.
 *
 * Four kinds of source, by who fills them and how long they live:
 *   input      uploaded before every replay (token ids, labels, a learning rate)
 *   parameter  a weight under its hub name; lives on the device; trainable or frozen
 *   state      lives on the device and is changed by ops in place (moments, accumulated gradients, a key-value cache)
 *   constant   made on the CPU once (rotary tables)
 */
import { unpack, unpackOp } from '../ops/unpack/unpack.ts';
import { isPacked } from './packing.ts';
import type { Attributes, DType, GraphLike, Node, OpDefinition, Shape, TensorType, Value } from './types.ts';

export type SourceKind = 'input' | 'parameter' | 'state' | 'constant';

function sourceOp(name: SourceKind): OpDefinition {
  return { name, infer: () => [], cost: () => ({ flops: 0, bytes: 0 }) };
}

const SOURCES: Record<SourceKind, OpDefinition> = {
  input: sourceOp('input'),
  parameter: sourceOp('parameter'),
  state: sourceOp('state'),
  constant: sourceOp('constant'),
};

export interface Source {
  readonly kind: SourceKind;
  readonly name: string;
  readonly value: Value;
  /** parameters only */
  readonly trainable: boolean;
  /** constants only */
  readonly data?: Float32Array | Int32Array;
}

/** Ids of nodes, `end` excluded. */
export interface Block {
  readonly start: number;
  readonly end: number;
}

export class Graph implements GraphLike {
  readonly nodes: Node[] = [];
  readonly sources = new Map<string, Source>();
  readonly outputs = new Map<string, Value>();
  /** Runs of nodes that were built as one part of the model (a layer), in order and apart from each other. */
  readonly blocks: Block[] = [];
  /** Where the backward pass begins, by id of its first node: gradients() adds it behind the forward pass. */
  backwardStart: number | undefined;
  /** Blocks that the backward pass computes again (autodiff.ts). */
  readonly recomputed: Block[] = [];
  private nextValue = 0;

  input(name: string, shape: Shape, dtype: DType = 'f32'): Value {
    return this.source('input', name, { shape, dtype }, false);
  }

  /** The same name gives the same value: tied weights are one parameter asked for twice. */
  parameter(name: string, shape: Shape, options: { trainable?: boolean; dtype?: DType } = {}): Value {
    const { trainable = false, dtype = 'f32' } = options;
    if (trainable && dtype !== 'f32') throw new RangeError(`'${name}' is trained, and held as ${dtype}`);
    return this.source('parameter', name, { shape, dtype }, trainable);
  }

  state(name: string, shape: Shape, dtype: DType = 'f32'): Value {
    return this.source('state', name, { shape, dtype }, false);
  }

  constant(name: string, shape: Shape, data: Float32Array | Int32Array): Value {
    return this.source('constant', name, { shape, dtype: data instanceof Int32Array ? 'i32' : 'f32' }, false, data);
  }

  /** A value that the caller wants to read after a replay. What no output needs and changes no state is never run. */
  output(name: string, value: Value): void {
    if (this.outputs.has(name)) throw new RangeError(`two outputs named '${name}'`);
    this.outputs.set(name, value);
  }

  /** What `build` adds is one block: the unit that the backward pass can compute again (autodiff.ts). */
  block<T>(build: () => T): T {
    const start = this.nodes.length;
    const result = build();
    if ((this.blocks.at(-1)?.end ?? 0) > start) throw new RangeError('a block within a block');
    this.blocks.push({ start, end: this.nodes.length });
    return result;
  }

  apply(op: OpDefinition, inputs: readonly Value[], attributes: Attributes = {}): readonly Value[] {
    for (const value of inputs) {
      if (value.graph !== this) throw new RangeError(`${op.name}: an input belongs to another graph`);
    }
    const taken = inputs.map((value, i) =>
      isPacked(value.type.dtype) && op !== unpackOp && !op.packed?.includes(i) ? unpack(value) : value,
    );
    const types = op.infer(
      taken.map((value) => value.type),
      attributes,
    );
    return this.add(op, taken, attributes, types);
  }

  sourceOf(value: Value): Source | undefined {
    return value.node.inputs.length === 0 && value.node.op.name in SOURCES
      ? this.sources.get(value.node.attributes.name as string)
      : undefined;
  }

  /** Whether it is made of a parameter that is trained. */
  isTrained(value: Value): boolean {
    const source = this.sourceOf(value);
    return source ? source.trainable : value.node.inputs.some((input) => this.isTrained(input));
  }

  constantOf(value: Value): Float32Array | Int32Array | undefined {
    return this.sourceOf(value)?.data;
  }

  parameters(): Source[] {
    return [...this.sources.values()].filter((source) => source.kind === 'parameter');
  }

  private source(
    kind: SourceKind,
    name: string,
    type: TensorType,
    trainable: boolean,
    data?: Float32Array | Int32Array,
  ): Value {
    const known = this.sources.get(name);
    if (known) {
      const same = known.kind === kind && String(known.value.type.shape) === String(type.shape);
      if (!same) throw new RangeError(`'${name}' is already a ${known.kind} [${known.value.type.shape.join(', ')}]`);
      return known.value;
    }
    const [value] = this.add(SOURCES[kind], [], { name }, [type]);
    this.sources.set(name, { kind, name, value: value!, trainable, data });
    return value!;
  }

  private add(
    op: OpDefinition,
    inputs: readonly Value[],
    attributes: Attributes,
    types: readonly TensorType[],
  ): Value[] {
    const outputs: Value[] = [];
    const node: Node = { id: this.nodes.length, op, inputs, attributes, outputs };
    types.forEach((type, index) => outputs.push({ id: this.nextValue++, node, index, type, graph: this }));
    this.nodes.push(node);
    return outputs;
  }
}
