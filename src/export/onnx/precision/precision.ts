/**
 * How a file keeps its matrices and in what type it computes: one object a dtype of transformers.js.
 * An op's lowering asks for `linear` and `rows` and never knows how a weight is stored.
 */
import type { Source } from '../../../engine/graph/graph.ts';
import { concrete } from '../../../engine/graph/types.ts';
import type { Lowered, Lowering } from '../lowering.ts';

/** As transformers.js names them. */
export type OnnxDtype = 'fp32' | 'fp16' | 'q8' | 'q4' | 'q4f16';

export interface Matrix {
  /** Hub name. */
  readonly name: string;
  /** As stored on the hub. */
  readonly rows: number;
  readonly columns: number;
  /** y = x Wᵀ, W [out, in] (PyTorch's Linear); otherwise y = x W, W [in, out] (GPT-2's Conv1D). */
  readonly transposed: boolean;
  /** The same weight is an embedding whose rows are gathered: it is stored once, as rows. */
  readonly tied: boolean;
}

export interface Precision {
  readonly dtype: OnnxDtype;
  /** Type of activations and of keys and values in the cache. */
  readonly float: 'FLOAT' | 'FLOAT16';
  /** Opsets beside ONNX's own that its operators need. */
  readonly domains: Readonly<Record<string, number>>;
  /** x W or x Wᵀ over the last axis of x. */
  linear(c: Lowering, x: string, matrix: Matrix): Lowered;
  /** Rows of an embedding at int64 ids. */
  rows(c: Lowering, ids: string, matrix: Matrix): Lowered;
}

export function matrixOf(c: Lowering, source: Source, transposed: boolean): Matrix {
  const [rows, columns] = concrete(source.value.type.shape) as [number, number];
  const tied = c.graph.nodes.some((node) => node.op.name === 'embedding' && node.inputs.includes(source.value));
  return { name: source.name, rows, columns, transposed, tied };
}

/** [rows, columns] ─▶ [columns, rows] */
export function transpose(data: Float32Array, rows: number, columns: number): Float32Array<ArrayBuffer> {
  const out = new Float32Array(data.length);
  // in tiles, so that both sides stay in the cache of a large matrix
  const tile = 32;
  for (let r0 = 0; r0 < rows; r0 += tile)
    for (let c0 = 0; c0 < columns; c0 += tile)
      for (let r = r0; r < Math.min(r0 + tile, rows); r++)
        for (let c = c0; c < Math.min(c0 + tile, columns); c++) out[c * rows + r] = data[r * columns + c]!;
  return out;
}
