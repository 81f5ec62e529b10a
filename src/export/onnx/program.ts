/**
 * An ONNX graph while it is being written: plain lists of nodes, initializers, inputs and outputs.
 *
 * Initializers name their bytes instead of holding them, so that a model streams to its file tensor by tensor.
 */
import type { Dim } from '../../engine/graph/types.ts';

/** Element types, spelt as in onnx.TensorProto.DataType. */
export type ElementType = 'FLOAT' | 'FLOAT16' | 'INT64' | 'INT8' | 'UINT8' | 'BOOL';

export type NodeAttributes = Readonly<
  Record<string, { int: number } | { float: number } | { ints: readonly number[] } | { string: string }>
>;

export interface OnnxNode {
  readonly name: string;
  readonly op: string;
  /** '' is ONNX's own. */
  readonly domain: string;
  readonly inputs: string[];
  readonly outputs: string[];
  readonly attributes: NodeAttributes;
}

export interface Initializer {
  readonly name: string;
  readonly type: ElementType;
  readonly shape: readonly number[];
  /** Little-endian, row-major. */
  readonly data: () => Promise<Uint8Array<ArrayBuffer>> | Uint8Array<ArrayBuffer>;
}

export interface Border {
  readonly name: string;
  readonly type: ElementType;
  /** Strings are sizes that the caller chooses at each call. */
  readonly shape: readonly Dim[];
}

export interface OnnxProgram {
  readonly name: string;
  readonly nodes: readonly OnnxNode[];
  readonly initializers: readonly Initializer[];
  readonly inputs: readonly Border[];
  readonly outputs: readonly Border[];
  /** Version by domain. */
  readonly opsets: Readonly<Record<string, number>>;
}

export function elementBytes(type: ElementType): number {
  switch (type) {
    case 'INT64':
      return 8;
    case 'FLOAT':
      return 4;
    case 'FLOAT16':
      return 2;
    default:
      return 1;
  }
}
