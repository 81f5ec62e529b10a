/**
 * A product of matrices that may lie in windows (graph/windows.ts): a dispatch for each run of M, N and K that lies in one
 * window of each. Rows of A and the product are ranges of M; rows of a weight stored [N, K] are columns of the product;
 * where rows run along K, the sums go on from one window to the next. Every entry is the same sum in the same order as in one
 * dispatch, so the bits are the same; but for a GPU's few outputs with long sums (split.ts) that windows cut along K.
 */
import { commonWindows, locate } from '../../graph/windows.ts';
import type { Dispatch, Operand } from '../../graph/types.ts';
import { matmulDispatch, type MatmulWindow } from './kernel.ts';

/** Stored rows that the product begins at. */
type Product = Omit<MatmulWindow, 'offsets' | 'strides' | 'onto'> & {
  /** What the product is added to, with as many entries as it or as one of its rows. */
  readonly onto?: Operand;
  readonly first?: { readonly [name in 'a' | 'b' | 'out']?: number };
};

export function matmulDispatches({ first = {}, onto, ...product }: Product): Dispatch[] {
  const { M, N, K, transA = false, transB = false, accumulate = false } = product;
  const rows = (name: 'a' | 'b' | 'out') => ({ operand: product[name], first: first[name] ?? 0 });
  const at = (name: 'a' | 'b' | 'out', row: number) => locate(product[name], (first[name] ?? 0) + row);
  const strides = { a: transA ? M : K, out: N };
  const row = onto !== undefined && onto.size === N && M > 1;
  const begun = onto && !row ? [{ operand: onto, first: 0 }] : [];
  const alongM = commonWindows(M, [...(transA ? [] : [rows('a')]), rows('out'), ...begun]);
  const alongN = commonWindows(N, transB ? [rows('b')] : []);
  // columns of B are no window of it: with both transposed K stays whole
  const alongK = commonWindows(K, transB ? [] : transA ? [rows('a'), rows('b')] : [rows('b')]);
  return alongN.flatMap((n) =>
    alongM.flatMap((m) =>
      alongK.map((k, i) => {
        const a = transA ? at('a', k.start) : at('a', m.start);
        const b = transB ? at('b', n.start) : at('b', k.start);
        const out = at('out', m.start);
        const from = onto && i === 0 ? (row ? { operand: onto, offset: 0 } : locate(onto, m.start, N)) : undefined;
        return matmulDispatch({
          ...product,
          a: a.operand,
          b: b.operand,
          out: out.operand,
          M: m.rows,
          N: n.rows,
          K: k.rows,
          strides,
          offsets: {
            a: a.offset + (transA ? m.start : k.start),
            b: b.offset,
            out: out.offset + n.start,
          },
          accumulate: accumulate || i > 0,
          onto: from && { operand: from.operand, offset: from.offset + n.start, row },
        });
      }),
    ),
  );
}
