/**
 * out[M,N] = A[M,K] · B[K,N] (or += , or onto another matrix), any operand stored transposed, as one dispatch. What computes it is chosen in
 * variants.ts; all that a product may be given sum over k in the same order by one fma each, so they give the same bits.
 */
import type { Dispatch, KernelLimits, Operand } from '../../graph/types.ts';
import { variantsOf, type MatmulVariant } from './variants.ts';

export interface MatmulWindow {
  readonly a: Operand;
  readonly b: Operand;
  readonly out: Operand;
  readonly M: number;
  readonly N: number;
  readonly K: number;
  /** A is stored [K, M]. */
  readonly transA?: boolean;
  /** B is stored [N, K]. */
  readonly transB?: boolean;
  /** First element of each window in its operand; a multiple of 64 (256 bytes). */
  readonly offsets?: { readonly a?: number; readonly b?: number; readonly out?: number };
  /** Elements from a stored row to the next, where a window has some of the columns only. B's rows are always whole. */
  readonly strides?: { readonly a: number; readonly out: number };
  /** out += A·B instead of out = A·B: the sums go on from what is there, with the same bits as one longer sum. */
  readonly accumulate?: boolean;
  /** out = onto + A·B: what the sums begin with, [M, N] as out lies, or a row [N] for all rows (a bias). Not with accumulate. */
  readonly onto?: { readonly operand: Operand; readonly offset: number; readonly row: boolean };
  readonly label?: string;
  /** What the device can do and what was found out about it; without, the variant that runs everywhere. */
  readonly limits?: Pick<
    KernelLimits,
    | 'architecture'
    | 'subgroups'
    | 'subgroupSize'
    | 'shaderF16'
    | 'maxComputeWorkgroupStorageSize'
    | 'tuning'
    | 'refused'
  >;
}

export function stridesOf({ M, N, K, transA, strides }: MatmulWindow): { a: number; out: number } {
  return strides ?? { a: transA ? M : K, out: N };
}

/**
 * Where the sums begin, for kernels to write: undefined where at zero, else the array and how far apart its rows lie, in elements.
 */
export function beginOf(window: MatmulWindow): { readonly array: 'out' | 'onto'; readonly stride: number } | undefined {
  const { accumulate, onto } = window;
  const { out } = stridesOf(window);
  if (onto) return { array: 'onto', stride: onto.row ? 0 : out };
  return accumulate ? { array: 'out', stride: out } : undefined;
}

export interface MatmulCode {
  readonly code: string;
  /** WGSL element types of the three arrays. */
  readonly elements: Record<'a' | 'b' | 'out', string>;
  readonly workgroups: Dispatch['workgroups'];
  /** `code` calls subgroup functions. */
  readonly subgroups?: boolean;
  /** `code` has variables of f16. */
  readonly halves?: boolean;
}

export function matmulDispatch(window: MatmulWindow): Dispatch {
  const { M, N, K, limits } = window;
  const layout = `${window.transA ? 'T' : 'N'}${window.transB ? 'T' : 'N'}`;
  const begin = window.accumulate ? ' +=' : window.onto ? ` onto ${window.onto.row ? 'a row' : 'all'}` : '';
  const key = `matmul ${layout} ${M}x${K}x${N} ${window.b.type.dtype}${begin}`;
  const variants = variantsOf(window);
  const chosen = variants.find(({ name }) => name === limits?.tuning?.get(key)) ?? variants[0]!;
  const label = window.label ?? `matmul ${layout} ${M}x${K}x${N}`;
  const dispatchOf = (variant: MatmulVariant): Dispatch => dispatchWith(window, variant.code(), label);
  return {
    ...dispatchOf(chosen),
    choice: {
      key,
      variants: () => variants.map((variant) => ({ name: variant.name, dispatch: dispatchOf(variant) })),
    },
  };
}

function dispatchWith(
  window: MatmulWindow,
  { code, elements, workgroups, subgroups, halves }: MatmulCode,
  label: string,
): Dispatch {
  const { M, N, K, offsets, onto } = window;
  const strides = stridesOf(window);
  const [rowsA, columnsA] = window.transA ? [K, M] : [M, K];
  const lengths = { a: (rowsA - 1) * strides.a + columnsA, b: K * N, out: (M - 1) * strides.out + N };
  const binding = (name: 'a' | 'b' | 'out') => ({
    name,
    operand: window[name],
    access: name === 'out' ? ('write' as const) : ('read' as const),
    element: elements[name],
    offset: offsets?.[name] ?? 0,
    length: lengths[name],
  });
  return {
    label,
    bindings: [
      binding('a'),
      binding('b'),
      ...(onto
        ? [
            {
              name: 'onto',
              operand: onto.operand,
              access: 'read' as const,
              element: elements.out,
              offset: onto.offset,
              length: onto.row ? N : lengths.out,
            },
          ]
        : []),
      binding('out'),
    ],
    code,
    workgroups,
    flops: 2 * M * N * K,
    subgroups,
    halves,
  };
}
