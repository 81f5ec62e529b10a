/** What all attention kernels share: sizes, bindings, the mask, and the two products that a tile is made of. */
import type { Binding, Operand } from '../../graph/types.ts';
import { f32, tanhWgsl } from '../wgsl.ts';

export type AttentionAttributes = {
  heads: number;
  kv_heads: number;
  head_dim: number;
  scale: number;
  causal: boolean;
  window?: number;
  softcap?: number;
};

export interface Problem extends AttentionAttributes {
  readonly B: number;
  readonly T: number;
  readonly S: number;
  /** Query heads that share a key-value head. */
  readonly group: number;
  /** Components of a vector in q, k, v: the widest that divides head_dim; and vectors a head. */
  readonly width: 1 | 2 | 4;
  readonly vectors: number;
  readonly element: string;
  readonly inputs: readonly Operand[];
  readonly past: Operand | undefined;
}

export function problemOf(inputs: readonly Operand[], attributes: AttentionAttributes, past?: Operand): Problem {
  const [q, k] = inputs;
  const d = attributes.head_dim;
  const width = d % 4 === 0 ? 4 : d % 2 === 0 ? 2 : 1;
  return {
    ...attributes,
    B: q!.shape[0]!,
    T: q!.shape[1]!,
    S: k!.shape[1]!,
    group: attributes.heads / attributes.kv_heads,
    width,
    vectors: d / width,
    element: width === 1 ? 'f32' : `vec${width}<f32>`,
    inputs,
    past,
  };
}

/** Of the forward pass: q, k, v, both segments, and past_length where there is one. */
export function inputBindings({ inputs, element, past }: Problem): Binding[] {
  const [q, k, v, querySegments, keySegments] = inputs;
  return [
    { name: 'q', operand: q!, access: 'read', element },
    { name: 'k', operand: k!, access: 'read', element },
    { name: 'v', operand: v!, access: 'read', element },
    { name: 'query_segments', operand: querySegments!, access: 'read' },
    { name: 'key_segments', operand: keySegments!, access: 'read' },
    ...(past ? [{ name: 'past_length', operand: past, access: 'read' } as const] : []),
  ];
}

/** Of the backward passes: q, k, v, key segments, g, and what is known of the queries. */
export function gradientBindings({ inputs, element }: Problem): Binding[] {
  const [q, k, v, keySegments, g, rows] = inputs;
  return [
    { name: 'q', operand: q!, access: 'read', element },
    { name: 'k', operand: k!, access: 'read', element },
    { name: 'v', operand: v!, access: 'read', element },
    { name: 'key_segments', operand: keySegments!, access: 'read' },
    { name: 'g', operand: g!, access: 'read', element },
    { name: 'rows', operand: rows!, access: 'read', element: 'vec4<f32>' },
  ];
}

/** Functions that `score` calls on values of type `element`. */
export const scoreWgsl = ({ softcap }: Problem, element: 'f32' | 'vec4<f32>'): string =>
  softcap === undefined ? '' : tanhWgsl(element);

/** WGSL: the score of a product q·k, scaled and, where the model caps its scores, cap · tanh(· / cap). */
export function score({ scale, softcap }: Problem, product: string): string {
  return softcap === undefined
    ? `${product} * ${f32(scale)}`
    : `${f32(softcap)} * tanh_of(${product} * ${f32(scale / softcap)})`;
}

/** WGSL: ` * d score / d (scale · q·k)` = 1 − (score / cap)²; nothing without a cap. `capped` is a name. */
export function timesSlope({ softcap }: Problem, capped: string): string {
  return softcap === undefined ? '' : ` * (1.0 - ${capped} * ${capped} * ${f32(1 / softcap ** 2)})`;
}

/** Queries and keys of a tile; 64 threads, each with 4 x 4 of its entries. */
export const TILE = 32;
export const range = (count: number): number[] => Array.from({ length: count }, (_, i) => i);

/**
 * WGSL of a bool vector: which of four consecutive keys (`keys`: vec4<i32>, segments `of_keys`: vec4<i32>) one query
 * (`query`: i32 with the past added, segment `of_query`) sees. Or, the other way round, of four queries for one key.
 */
export function visible(
  { causal, window }: Problem,
  names: { query: string; ofQuery: string; key: string; ofKey: string },
): string {
  const { query, ofQuery, key, ofKey } = names;
  const terms = [`(${ofKey} == ${ofQuery})`, `(${ofKey} != vec4<i32>())`];
  if (causal) terms.push(`(${key} <= ${query})`);
  if (window !== undefined) terms.push(`(${query} - ${key} < vec4<i32>(${window}))`);
  return terms.join(' & ');
}

/**
 * Statements: `name`0 .. 3 (vec4 accumulators: entry [i][j]) += Σ_c rows_i[c] · columns_j[c], where `rows` and `columns` are
 * arrays and `rowAt(i)`, `columnAt(j)` the index of a row's first vector. To stand inside a loop over `c`.
 */
export function tileProduct(
  { width }: Problem,
  name: string,
  rows: string,
  columns: string,
  rowAt: (i: number) => string,
  columnAt: (j: number) => string,
): string {
  const component = (value: string, e: number): string => (width === 1 ? value : `${value}[${e}]`);
  return [
    ...range(4).map((i) => `let ${name}_r${i} = ${rows}[${rowAt(i)} + c];`),
    ...range(4).map((j) => `let ${name}_c${j} = ${columns}[${columnAt(j)} + c];`),
    ...range(width).flatMap((e) => [
      `let ${name}_v${e} = vec4<f32>(${range(4)
        .map((j) => component(`${name}_c${j}`, e))
        .join(', ')});`,
      ...range(4).map(
        (i) => `${name}${i} = fma(vec4<f32>(${component(`${name}_r${i}`, e)}), ${name}_v${e}, ${name}${i});`,
      ),
    ]),
  ].join('\n      ');
}

/**
 * How the 64 threads own a [TILE rows × head_dim] result: `rows` rows by one vector a thread, `rounds` times.
 * Least loads a multiplication while the accumulators stay within 32 vectors.
 */
export function ownership({ vectors }: Problem): { rows: number; rounds: number; items: number } {
  const options = [1, 2, 4, 8, 16].map((rows) => {
    const items = (TILE / rows) * vectors;
    return { rows, items, rounds: Math.ceil(items / 64) };
  });
  const cost = ({ rows, rounds }: { rows: number; rounds: number }): number => rounds * (8 * rows + 16);
  return options.reduce((best, option) => (cost(option) < cost(best) ? option : best));
}

/** Index of row r of tile `name` (array<vec4<f32>>, four columns each; one vector of padding spreads the banks). */
export const TILE_STRIDE = TILE / 4 + 1;

/**
 * For every round of the ownership: statements with `item`, its row group's first row `row` and its vector `c`.
 */
export function forRounds(problem: Problem, body: (round: number) => string): string {
  const { rounds, items } = ownership(problem);
  return range(rounds)
    .map((round) => {
      const inner = `let item = lid + ${64 * round}u;
      let row = (item / ${problem.vectors}u) * ${ownership(problem).rows}u;
      let c = item % ${problem.vectors}u;
      ${body(round)}`;
      return items % 64 !== 0 && round === rounds - 1
        ? `    if (lid + ${64 * round}u < ${items}u) {\n      ${inner}\n    }`
        : `    {\n      ${inner}\n    }`;
    })
    .join('\n');
}

/** Names of a round's accumulators. */
export const accumulator = (name: string, round: number, i: number): string => `${name}_${round}_${i}`;

export function declareAccumulators(problem: Problem, name: string): string {
  const { rows, rounds } = ownership(problem);
  return range(rounds)
    .flatMap((round) => range(rows).map((i) => `  var ${accumulator(name, round, i)} = ${problem.element}();`))
    .join('\n');
}

/**
 * Statements: accumulators `name` += tile[row + i][·] · source[·][c] over the tile's columns, of which `count` (an
 * expression, u32) are real; `sourceAt` is the index of vector 0 of the row that belongs to column `j` (u32).
 */
export function spreadProduct(
  problem: Problem,
  round: number,
  count: string,
  terms: readonly { name: string; tile: string; source: string }[],
  sourceAt: (j: string) => string,
): string {
  const { rows } = ownership(problem);
  const { element, width } = problem;
  const vector = (value: string): string => (width === 1 ? value : `${element}(${value})`);
  return `for (var j = 0u; j < ${count}; j += 4u) {
        ${range(4)
          .map((e) => `let at${e} = ${sourceAt(`min(j + ${e}u, ${count} - 1u)`)} + c;`)
          .join('\n        ')}
        ${terms
          .flatMap(({ name, tile, source }) => [
            ...range(4).map((e) => `let ${name}_s${e} = ${source}[at${e}];`),
            ...range(rows).flatMap((i) => [
              `let ${name}_t${i} = ${tile}[(row + ${i}u) * ${TILE_STRIDE}u + j / 4u];`,
              ...range(4).map(
                (e) =>
                  `${accumulator(name, round, i)} = fma(${vector(`${name}_t${i}[${e}]`)}, ${name}_s${e}, ${accumulator(name, round, i)});`,
              ),
            ]),
          ])
          .join('\n        ')}
      }`;
}
