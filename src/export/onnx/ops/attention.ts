/**
 * Attention and its cache in ONNX's own operators, right for left-padded batches and sliding windows.
 *
 * Keys and values lie [batch, key-value heads, keys, head size], as the cache at the border does. Query heads that share
 * a key-value head are folded into the rows of one product, so that no key is ever copied:
 *
 *   q       [batch, kv, group · tokens, size]
 *   scores  q kᵀ, capped where the model caps them, + mask      mask [batch, 1, group · tokens, keys], made once a file
 *   out     softmax(scores) v ─▶ [batch, tokens, heads · size]
 *
 * A key counts where attention_mask has a 1, not after its query, and within the window. Positions are counted by place
 * in the sequence, not by position_ids, which padding shifts. Masks are finite, so that a row without any key (a padding
 * token) is a plain mean and no NaN.
 */
import type { Value } from '../../../engine/graph/types.ts';
import type { Lowering, OpLowering } from '../lowering.ts';

interface AttentionAttributes {
  readonly heads: number;
  readonly kv_heads: number;
  readonly head_dim: number;
  readonly scale: number;
  readonly causal: boolean;
  readonly window?: number;
  readonly softcap?: number;
}

export const attention: OpLowering = (c, node) => {
  const [q, k, v, , keySegments] = node.inputs as [Value, Value, Value, Value, Value];
  const attributes = node.attributes as unknown as AttentionAttributes;
  const { heads, kv_heads, head_dim, scale, softcap } = attributes;
  const group = heads / kv_heads;

  // scaled before the product: half precision has no room for unscaled scores
  const scaled = c.emit('Mul', [c.get(q), c.float(softcap === undefined ? scale : scale / softcap)]);
  const split = c.emit('Reshape', [scaled, c.ints([0, 0, kv_heads, group, head_dim])]);
  const byHead = c.emit('Transpose', [split], { perm: { ints: [0, 2, 3, 1, 4] } });
  const queries = c.emit('Reshape', [byHead, c.ints([0, kv_heads, -1, head_dim])]);
  const keys = c.emit('Transpose', [headsFirst(c, k, kv_heads, head_dim)], { perm: { ints: [0, 1, 3, 2] } });
  const product = c.emit('MatMul', [queries, keys]);
  const scores = softcap === undefined ? product : c.emit('Mul', [c.emit('Tanh', [product]), c.float(softcap)]);
  const masked = c.emit('Add', [scores, mask(c, q, keySegments, attributes, group)]);
  const weights = c.emit('Softmax', [masked], { axis: { int: -1 } });
  const mixed = c.emit('MatMul', [weights, headsFirst(c, v, kv_heads, head_dim)]);
  const unfolded = c.emit('Reshape', [mixed, c.ints([0, kv_heads, group, -1, head_dim])]);
  const byToken = c.emit('Transpose', [unfolded], { perm: { ints: [0, 3, 1, 2, 4] } });
  return [{ name: c.emit('Reshape', [byToken, c.ints([0, 0, heads * head_dim])]), type: c.precision.float }];
};

/** Concat along the tokens: the caller keeps the cache, and gives it back at the next call. */
export const kvAppend: OpLowering = (c, { inputs: [cache, x], outputs }) => {
  const past = c.lower(cache!);
  if (past.layout !== 'heads-first') throw new Error(`kv-append: '${past.name}' is no cache`);
  const reader = c.graph.nodes.find((node) => node.op.name === 'attention' && node.inputs.includes(outputs[0]!))!;
  const { kv_heads, head_dim } = reader.attributes as unknown as AttentionAttributes;
  const now = headsFirst(c, x!, kv_heads, head_dim);
  const name = c.emit('Concat', [past.name, now], { axis: { int: 2 } });
  return [{ name, type: c.precision.float, layout: 'heads-first' }];
};

/** [batch, keys, kv_heads · head_dim] ─▶ [batch, kv_heads, keys, head_dim] */
function headsFirst(c: Lowering, value: Value, kvHeads: number, headDim: number): string {
  if (c.lower(value).layout === 'heads-first') return c.get(value);
  const split = c.emit('Reshape', [c.get(value), c.ints([0, 0, kvHeads, headDim])]);
  return c.emit('Transpose', [split], { perm: { ints: [0, 2, 1, 3] } });
}

function mask(c: Lowering, q: Value, segments: Value, { causal, window }: AttentionAttributes, group: number): string {
  const tokens = c.dim(q.type.shape[1]!);
  const keys = c.dim(segments.type.shape[1]!);
  return c.once(`mask ${segments.id} ${tokens} ${causal} ${window} ${group}`, () => {
    const counted = c.emit('Unsqueeze', [c.cast(c.get(segments), 'INT64', 'BOOL'), c.ints([1])]);
    const seen = causal ? c.emit('And', [counted, reach(c, tokens, keys, window)]) : counted;
    const zero = c.float(0);
    const bias = c.emit('Where', [seen, zero, c.float(c.precision.float === 'FLOAT16' ? -3e4 : -1e9)]);
    const rows = causal
      ? bias
      : c.emit('Expand', [bias, c.emit('Concat', [c.ints([1]), tokens, c.ints([1])], { axis: { int: 0 } })]);
    const folded = group === 1 ? rows : c.emit('Concat', new Array<string>(group).fill(rows), { axis: { int: 1 } });
    return c.emit('Unsqueeze', [folded, c.ints([1])]);
  });
}

/** [tokens, keys]: whether a key stands at or before its query, and not further back than the window. */
function reach(c: Lowering, tokens: string, keys: string, window: number | undefined): string {
  const scalar = (vector: string): string => c.emit('Squeeze', [vector, c.ints([0])]);
  const last = scalar(keys);
  const first = c.emit('Sub', [last, scalar(tokens)]);
  const columns = c.emit('Range', [c.int(0), last, c.int(1)]);
  const rows = c.emit('Unsqueeze', [c.emit('Range', [first, last, c.int(1)]), c.ints([1])]);
  const before = c.emit('LessOrEqual', [columns, rows]);
  if (window === undefined) return before;
  return c.emit('And', [before, c.emit('Greater', [columns, c.emit('Sub', [rows, c.int(window)])])]);
}
