/**
 * The words of the engine: tensors, values, nodes, and what an op must say of itself.
 *
 * A model and its objective are one static graph. A `Value` is a tensor that some `Node` produces; a node names an op,
 * its inputs and its attributes. Everything else (differentiating, planning, running, writing ONNX) reads this and
 * nothing more.
 */
import { isPacked, packedWords, type PackedDType } from './packing.ts';
import type { OperandWindow } from './windows.ts';

/** Elements along an axis; a string stands for a size that only the exported model's caller will know. */
export type Dim = number | string;
export type Shape = readonly Dim[];
/** Packed dtypes (packing.ts) hold frozen weights; f16 also what the backward pass reads of the forward (autodiff.ts). */
export type DType = 'f32' | 'i32' | PackedDType;

export interface TensorType {
  readonly shape: Shape;
  readonly dtype: DType;
}

/** Attributes are plain data: they go into kernels' source, cost and ONNX alike. */
export type Attributes = Readonly<Record<string, number | string | boolean | readonly number[] | undefined>>;

export interface Node {
  readonly id: number;
  readonly op: OpDefinition;
  readonly inputs: readonly Value[];
  readonly attributes: Attributes;
  readonly outputs: readonly Value[];
}

export interface Value {
  readonly id: number;
  readonly node: Node;
  /** Which of the node's outputs this is. */
  readonly index: number;
  readonly type: TensorType;
  readonly graph: GraphLike;
}

/** What an op needs of the graph it adds itself to. */
export interface GraphLike {
  apply(op: OpDefinition, inputs: readonly Value[], attributes?: Attributes): readonly Value[];
  /** A tensor made on the CPU once; the same name gives the same value. */
  constant(name: string, shape: Shape, data: Float32Array | Int32Array): Value;
  /** The numbers of a constant; undefined for anything else. */
  constantOf(value: Value): Float32Array | Int32Array | undefined;
}

/** A tensor in float64 on the CPU: what references and finite differences compute with. Row-major. */
export interface Tensor64 {
  readonly shape: readonly number[];
  readonly data: Float64Array;
}

export interface Cost {
  /** Multiply and add count two. */
  readonly flops: number;
  /** Bytes that must be read and written at least, from and to memory. */
  readonly bytes: number;
}

/**
 * An op says everything about itself, in its own folder: shape rule, cost, gradient, float64 reference and kernel.
 * Sources (`input`, `parameter`, ...) have no kernel.
 */
export interface OpDefinition<A extends Attributes = Attributes> {
  readonly name: string;
  /** Types of the outputs; throws a RangeError in words where the inputs do not fit. Must work with symbolic dims. */
  infer(inputs: readonly TensorType[], attributes: A): readonly TensorType[];
  cost(inputs: readonly TensorType[], outputs: readonly TensorType[], attributes: A): Cost;
  /**
   * Gradients for the inputs, built from other ops (a kernel of its own is an op of its own). `outputGradients[i]` is
   * undefined where nothing depends on output i; `needed[i]` is false where nobody asks for input i's gradient.
   */
  gradient?(
    node: Node,
    outputGradients: readonly (Value | undefined)[],
    needed: readonly boolean[],
  ): readonly (Value | undefined)[];
  /** The same numbers in float64, as plainly as they can be written. */
  reference?(inputs: readonly Tensor64[], attributes: A, outputs: readonly TensorType[]): readonly Tensor64[];
  /** The dispatches that compute the outputs, in order. */
  kernel?(context: KernelContext<A>): readonly Dispatch[];
  /** Output i is input `inPlace[i]` overwritten: they share their storage (an optimiser's moments, a cache of keys). */
  readonly inPlace?: Readonly<Record<number, number>>;
  /** Inputs that the kernel reads packed (packing.ts); any other gets its weight as f32, unpacked before. */
  readonly packed?: readonly number[];
  /**
   * A row of an output depends on the same row of the inputs that have as many entries, and on whole inputs that have fewer:
   * tensors that lie in windows (windows.ts) go through the kernel window by window, and it does not know.
   */
  readonly rowwise?: boolean;
  /**
   * Each entry of an output is made of the same entry of the inputs of its shape, all read before any is written: it may take
   * the place of one that nobody reads afterwards (plan.ts).
   */
  readonly elementwise?: boolean;
  /** An input that output 0 may take the place of where nobody reads it afterwards: the kernel sees one operand twice then. */
  readonly replaces?: number;
  /** It runs as soon as its inputs exist, wherever in the graph it was added. */
  readonly early?: boolean;
  /** Outputs that the backward pass needs in full, whatever else is held in 16 bits: what exponents are taken from. */
  readonly exact?: readonly number[];
}

/** A tensor as a kernel sees it while it is being written: a type and a name tag for the plan to place. */
export interface Operand {
  readonly type: TensorType;
  /** Number of elements. */
  readonly size: number;
  readonly shape: readonly number[];
  /** Where it is larger than the device binds; only its windows can be bound then. */
  readonly windows?: readonly OperandWindow[];
}

export interface KernelContext<A extends Attributes = Attributes> {
  readonly inputs: readonly Operand[];
  readonly outputs: readonly Operand[];
  readonly attributes: A;
  readonly limits: KernelLimits;
  /** Memory that lives only while this node runs; its content is undefined at the start. */
  scratch(shape: readonly number[], dtype?: DType): Operand;
}

export interface KernelLimits {
  readonly maxComputeInvocationsPerWorkgroup: number;
  readonly maxComputeWorkgroupStorageSize: number;
  readonly maxComputeWorkgroupsPerDimension: number;
  readonly maxStorageBufferBindingSize: number;
  readonly minStorageBufferOffsetAlignment: number;
  /** What the adapter calls its architecture ("swiftshader"): which safe variant is the best guess. */
  readonly architecture?: string;
  /** The device has subgroup functions. */
  readonly subgroups?: boolean;
  /** Lanes of a subgroup, where the device has subgroup functions and one size of subgroups only. */
  readonly subgroupSize?: number;
  /** The device has `shader-f16`. */
  readonly shaderF16?: boolean;
  /** The variant that was found fastest here, by the key of a choice; kernels take their safe one where nothing is known. */
  readonly tuning?: ReadonlyMap<string, string>;
  /** Variants that gave wrong numbers on this device; never taken. */
  readonly refused?: ReadonlySet<string>;
}

/**
 * Kernels that compute the same bits in different ways, of which a device runs one fastest. Because the bits are the same, a
 * run may go on with other choices than it began with.
 */
export interface KernelChoice {
  /** Operation, layout, sizes and dtypes: "matmul NT 512x576x1536 f32". */
  readonly key: string;
  /** All of them, the safe one first; each dispatch has the same bindings' operands, in the same order. */
  variants(): readonly { readonly name: string; readonly dispatch: Dispatch }[];
}

export interface Binding {
  /** The variable's name in `code`. */
  readonly name: string;
  readonly operand: Operand;
  /**
   * `write`: this dispatch changes it (it may read it too). Kernels never write to an operand that is an input, but for
   * those that `inPlace` names.
   */
  readonly access: 'read' | 'write';
  /** WGSL element type of the runtime array; the operand's own by default (`f32`, `i32`); e.g. `vec4<f32>`. */
  readonly element?: string;
  /** A window of the operand, in elements of its dtype: kernels that go through a tensor in pieces. Must be 256-byte aligned. */
  readonly offset?: number;
  readonly length?: number;
}

export interface Dispatch {
  /** For profiles and errors: "matmul 512x576x1536". */
  readonly label: string;
  /** Declared for the kernel as `@group(0) @binding(i) var<storage, ...> name: array<element>;` in this order. */
  readonly bindings: readonly Binding[];
  /** WGSL with one `@compute` entry point named `main`, without the bindings' declarations. */
  readonly code: string;
  readonly workgroups: readonly [number, number, number];
  /** Work of this dispatch; without, an equal share of its op's cost. */
  readonly flops?: number;
  /** `code` calls subgroup functions. */
  readonly subgroups?: boolean;
  /** `code` has variables of f16. */
  readonly halves?: boolean;
  /** What else could have been dispatched; the one variant where there is no other. */
  readonly choice?: KernelChoice;
}

export function sizeOf(shape: Shape): number {
  let size = 1;
  for (const dim of shape) {
    if (typeof dim === 'string') throw new RangeError(`the size of '${dim}' is not known here`);
    size *= dim;
  }
  return size;
}

export function concrete(shape: Shape): readonly number[] {
  return shape.map((dim) => {
    if (typeof dim === 'string') throw new RangeError(`the size of '${dim}' is not known here`);
    return dim;
  });
}

export function bytesOf(type: TensorType): number {
  return 4 * wordsOf(type.dtype, sizeOf(type.shape));
}

/** 32-bit words that hold so many numbers. */
export function wordsOf(dtype: DType, numbers: number): number {
  return isPacked(dtype) ? packedWords(dtype, numbers) : numbers;
}

export function sameShape(a: Shape, b: Shape): boolean {
  return a.length === b.length && a.every((dim, i) => dim === b[i]);
}

export function showType(type: TensorType): string {
  return `${type.dtype}[${type.shape.join(', ')}]`;
}
