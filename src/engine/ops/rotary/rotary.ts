/**
 * Rotary position embedding as transformers' `rotate_half`: entry j of a head is paired with entry j + R, the pair turned by
 * the angle of its position, R = rotary_dim / 2 = the tables' width; what lies beyond 2R passes through (partial rotary).
 * The tables come from the CPU (software adapters have a poor `sin`). The gradient turns back.
 *
 * `long_after` n (longrope, where the number of tokens is known only to the caller of an exported file): the tables are two,
 * one under the other, the first of n rows; a batch with a position past them is turned by the second.
 *
 * `stretch` (dynamic scaling, in such a file): a batch with a position past the tables is turned by angles made for its length
 * L, the last position and one: p / base^(j/R), base = theta · (factor · L / P − (factor − 1))^(R / (R − 1)), P the tables' rows.
 */
import { bytesOf, showType, sizeOf, type OpDefinition, type Value } from '../../graph/types.ts';
import { flatGrid } from '../wgsl.ts';

export type Stretch = readonly [theta: number, factor: number];

type RotaryAttributes = { head_dim: number; inverse: boolean; long_after?: number; stretch?: Stretch };

export const rotaryOp: OpDefinition<RotaryAttributes> = {
  name: 'rotary',

  infer([x, cos, sin, positions], { head_dim }) {
    const width = x!.shape[x!.shape.length - 1]!;
    const half = cos!.shape[1]!;
    if (typeof width === 'number' && width % head_dim !== 0) {
      throw new RangeError(`rotary: ${width} is no multiple of head_dim ${head_dim}`);
    }
    if (String(cos!.shape) !== String(sin!.shape) || typeof half !== 'number' || 2 * half > head_dim) {
      throw new RangeError(`rotary: tables ${showType(cos!)} and ${showType(sin!)} for heads of ${head_dim}`);
    }
    if (positions!.dtype !== 'i32') throw new RangeError(`rotary: positions ${showType(positions!)}`);
    return [x!];
  },

  cost: ([x]) => ({ flops: 3 * sizeOf(x!.shape), bytes: 2 * bytesOf(x!) }),

  gradient(node, [g]) {
    const [, cos, sin, positions] = node.inputs;
    const { inverse, ...rest } = node.attributes as RotaryAttributes;
    return [rotary(g!, cos!, sin!, positions!, { ...rest, inverse: !inverse })];
  },

  reference([x, cos, sin, positions], { head_dim, inverse, long_after, stretch }) {
    const [P, R] = cos!.shape as [number, number];
    const length = positions!.data.reduce((most, position) => Math.max(most, position + 1), 0);
    const [theta, factor] = stretch ?? [1, 1];
    const base = stretch && length > P ? theta * ((factor * length) / P - (factor - 1)) ** (R / (R - 1)) : undefined;
    const width = x!.shape[x!.shape.length - 1]!;
    const first =
      long_after !== undefined && positions!.data.some((position) => position >= long_after) ? long_after : 0;
    const data = x!.data.slice();
    for (let start = 0; start < data.length; start += head_dim) {
      const own = positions!.data[Math.floor(start / width)]!;
      const position = Math.min(first + own, P - 1);
      for (let j = 0; j < R; j++) {
        const angle = base === undefined ? undefined : own / base ** (j / R);
        const c = angle === undefined ? cos!.data[position * R + j]! : Math.cos(angle);
        const s = (angle === undefined ? sin!.data[position * R + j]! : Math.sin(angle)) * (inverse ? -1 : 1);
        const [a, b] = [x!.data[start + j]!, x!.data[start + j + R]!];
        data[start + j] = a * c - b * s;
        data[start + j + R] = b * c + a * s;
      }
    }
    return [{ shape: x!.shape, data }];
  },

  kernel({ inputs: [x, cos, sin, positions], outputs: [out], attributes: { head_dim, inverse, ...unknown } }) {
    if (unknown.long_after !== undefined || unknown.stretch)
      throw new RangeError('rotary: a graph of known length has one table');
    const [P, R] = cos!.shape as [number, number];
    const row = x!.shape[x!.shape.length - 1]!;
    const width = R % 4 === 0 && head_dim % 4 === 0 ? 4 : 1;
    const element = width === 4 ? 'vec4<f32>' : 'f32';
    // a head is R pairs and head_dim − 2R single entries
    const items = (head_dim - R) / width;
    const heads = row / head_dim;
    const grid = flatGrid((x!.size / head_dim) * items);
    const table = (name: 'cos' | 'sin') =>
      ({ name: `${name}_table`, operand: name === 'cos' ? cos! : sin!, access: 'read', element }) as const;
    return [
      {
        label: `rotary ${x!.shape.join('x')}`,
        bindings: [
          { name: 'x', operand: x!, access: 'read', element },
          table('cos'),
          table('sin'),
          { name: 'positions', operand: positions!, access: 'read' },
          { name: 'out', operand: out!, access: 'write', element },
        ],
        code: `${grid.entry} {
  ${grid.index}
  let j = i % ${items}u;
  let head = i / ${items}u;
  let at = head * ${head_dim / width}u + j;
  ${2 * R === head_dim ? '' : `if (j >= ${R / width}u) { out[at + ${R / width}u] = x[at + ${R / width}u]; return; }`}
  let position = u32(clamp(positions[head / ${heads}u], 0, ${P - 1}));
  let c = cos_table[position * ${R / width}u + j];
  let s = ${inverse ? '-' : ''}sin_table[position * ${R / width}u + j];
  let a = x[at];
  let b = x[at + ${R / width}u];
  out[at] = a * c - b * s;
  out[at + ${R / width}u] = b * c + a * s;
}`,
        workgroups: grid.workgroups,
      },
    ];
  },
};

/**
 * @param x [B, T, heads·head_dim]
 * @param cos, sin [positions, rotary_dim / 2]
 * @param positions i32 [B, T]
 * @param options.long_after rows of the first of two tables
 * @param options.stretch how positions past the tables are turned
 */
export function rotary(
  x: Value,
  cos: Value,
  sin: Value,
  positions: Value,
  options: {
    readonly head_dim: number;
    readonly inverse?: boolean;
    readonly long_after?: number;
    readonly stretch?: Stretch;
  },
): Value {
  return x.graph.apply(rotaryOp, [x, cos, sin, positions], { inverse: false, ...options })[0]!;
}
