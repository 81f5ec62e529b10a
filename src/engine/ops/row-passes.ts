/**
 * What the norms' kernels share: a statistic of each row (the last axis), then every entry from its own numbers and that.
 *
 * Two dispatches and no barrier: LANES threads a row gather what the statistics need over their strides, then one thread
 * a vector joins the LANES partial results of its row and writes. A workgroup a row with a shared sum was three times
 * slower on SwiftShader (barriers), and leaves most of a GPU's 64 threads idle for rows of 24 vectors.
 */
import type { Binding, Dispatch, KernelContext, Operand } from '../graph/types.ts';
import { flatGrid } from './wgsl.ts';

/** Threads that share a row. */
export const LANES = 8;

export interface RowPasses {
  readonly label: string;
  /** By the names they have in WGSL; `i` indexes them, `c` a vector of the last axis. */
  readonly inputs: Readonly<Record<string, Operand>>;
  /** What `join` reads by entries of its own. */
  readonly scalars?: Readonly<Record<string, Operand>>;
  readonly out: Operand;
  /** What a lane keeps: variables, 0.0 at first. */
  readonly partials: readonly string[];
  /** Statements of a lane; `each(body)` runs `body` for all its vectors, with `i` and `c`. */
  readonly gather: (each: (body: string) => string, row: RowShape) => string;
  /** Statements that join the lanes: `partial(name, lane)` is what a lane kept. They declare what `write` reads. */
  readonly join: (partial: (name: string, lane: number) => string, row: RowShape) => string;
  /** The entry that is written. */
  readonly write: string;
}

export interface RowShape {
  /** Entries of a row, and rows. */
  readonly H: number;
  readonly rows: number;
  /** Entries of a vector, its WGSL type, and vectors of a row. */
  readonly width: number;
  readonly element: string;
  readonly columns: number;
}

export function rowPasses(
  { scratch }: Pick<KernelContext, 'scratch'>,
  shape: Pick<Operand, 'shape' | 'size'>,
  passes: RowPasses,
): Dispatch[] {
  const row = rowShape(shape);
  const { H, rows, element, columns } = row;
  const { label, partials } = passes;
  const kept = scratch([rows, LANES, partials.length]);
  const lanes = flatGrid(rows * LANES);
  const vectors = flatGrid(rows * columns);
  const bindings: Binding[] = Object.entries(passes.inputs).map(([name, operand]) => ({
    name,
    operand,
    access: 'read',
    element,
  }));
  const used = (code: string): Binding[] => bindings.filter(({ name }) => new RegExp(`\\b${name}\\[`).test(code));
  const gathering = passes.gather(
    (body) => `for (var c = lane; c < ${columns}u; c += ${LANES}u) { let i = start + c; ${body} }`,
    row,
  );
  const partial = (name: string, lane: number): string =>
    `partial_results[kept + ${lane * partials.length + partials.indexOf(name)}u]`;
  return [
    {
      label: `${label} sums ${rows}x${H}`,
      bindings: [...used(gathering), { name: 'partial_results', operand: kept, access: 'write' }],
      code: `${lanes.entry} {
  let lane = gid.x % ${LANES}u;
  ${lanes.index.replace('let i =', 'let item =').replace('(i >=', '(item >=')}
  let start = (item / ${LANES}u) * ${columns}u;
  ${partials.map((name) => `var ${name} = 0.0;`).join(' ')}
  ${gathering}
  ${partials.map((name, n) => `partial_results[item * ${partials.length}u + ${n}u] = ${name};`).join(' ')}
}`,
      workgroups: lanes.workgroups,
    },
    {
      label: `${label} ${rows}x${H}`,
      bindings: [
        ...used(passes.write),
        ...Object.entries(passes.scalars ?? {}).map(([name, operand]) => ({ name, operand, access: 'read' as const })),
        { name: 'partial_results', operand: kept, access: 'read' },
        { name: 'out', operand: passes.out, access: 'write', element },
      ],
      code: `${vectors.entry} {
  ${vectors.index}
  let c = i % ${columns}u;
  let kept = (i / ${columns}u) * ${LANES * partials.length}u;
  ${passes.join(partial, row)}
  out[i] = ${passes.write};
}`,
      workgroups: vectors.workgroups,
    },
  ];
}

export function rowShape(x: { readonly shape: readonly number[]; readonly size: number }): RowShape {
  const H = x.shape[x.shape.length - 1]!;
  const width = H % 4 === 0 ? 4 : 1;
  return { H, rows: x.size / H, width, element: width === 4 ? 'vec4<f32>' : 'f32', columns: H / width };
}

/** Σ over a vector's entries of a · b, and of a. */
export const dot = (a: string, b: string, width: number): string => (width === 4 ? `dot(${a}, ${b})` : `${a} * ${b}`);
export const total = (a: string, width: number): string => (width === 4 ? `dot(${a}, vec4<f32>(1.0))` : a);

export const allLanes: readonly number[] = Array.from({ length: LANES }, (_, lane) => lane);
