/**
 * Rows of a table by id: [V, H] and i32 [B, T] ─▶ [B, T, H]. The gradient is a dense [V, H], made in a fixed order: the
 * first place of each id adds up all its places, front to back, along a chain that one small kernel links. Where the table
 * lies in windows, each is a dispatch that leaves other windows' ids alone.
 */
import { weightReader } from '../../graph/packing.ts';
import {
  bytesOf,
  sizeOf,
  type Dispatch,
  type KernelContext,
  type OpDefinition,
  type Operand,
  type Value,
} from '../../graph/types.ts';
import { windowsOf } from '../../graph/windows.ts';
import { flatGrid } from '../wgsl.ts';

export const embeddingOp: OpDefinition = {
  name: 'embedding',
  packed: [0],

  infer([table, ids]) {
    if (table!.shape.length !== 2 || ids!.dtype !== 'i32') {
      throw new RangeError(`embedding: ids ${ids!.dtype}[${ids!.shape}] into [${table!.shape}]`);
    }
    return [{ shape: [...ids!.shape, table!.shape[1]!], dtype: 'f32' }];
  },

  cost: ([, ids], [out]) => ({ flops: 0, bytes: 2 * bytesOf(out!) + bytesOf(ids!) }),

  gradient: (node, [g]) => [embeddingGradient(node.inputs[1]!, g!, node.inputs[0]!.type.shape[0] as number)],

  reference([table, ids], _, [out]) {
    const H = table!.shape[1]!;
    const data = new Float64Array(ids!.data.length * H);
    ids!.data.forEach((id, i) => data.set(table!.data.subarray(id * H, (id + 1) * H), i * H));
    return [{ shape: out!.shape as number[], data }];
  },

  kernel({ inputs: [table, ids], outputs: [out] }) {
    const [V, H] = table!.shape as [number, number];
    const width = H % 4 === 0 ? 4 : 1;
    const element = width === 4 ? 'vec4<f32>' : 'f32';
    const columns = H / width;
    const reader = weightReader('table', table!.type.dtype, width);
    const at = `(row * ${columns}u + i % ${columns}u) * ${width}u`;
    const grid = flatGrid(ids!.size * columns);
    return windowsOf(table!).map(({ start, rows, operand }) => ({
      label: `embedding ${ids!.shape.join('x')} of ${rows}x${H}`,
      bindings: [
        { name: 'table', operand, access: 'read', element: reader.element },
        { name: 'ids', operand: ids!, access: 'read' },
        { name: 'out', operand: out!, access: 'write', element },
      ],
      code: `${reader.functions}${grid.entry} {
  ${grid.index}
  ${rowOf(`ids[i / ${columns}u]`, V, start, rows)}
  out[i] = ${width === 4 ? reader.four(at) : reader.one(at)};
}`,
      workgroups: grid.workgroups,
    }));
  },
};

/** WGSL: the row of an id in its window; returns where it lies in another. */
function rowOf(id: string, V: number, start: number, rows: number): string {
  const row = `let row = u32(clamp(${id}, 0, ${V - 1}))`;
  return rows === V ? `${row};` : `${row} - ${start}u;\n  if (row >= ${rows}u) { return; }`;
}

export const embeddingGradientOp: OpDefinition<{ V: number }> = {
  name: 'embedding-gradient',

  infer: ([, g], { V }) => [{ shape: [V, g!.shape[g!.shape.length - 1]!], dtype: 'f32' }],

  cost: ([ids, g], [out]) => ({ flops: sizeOf(g!.shape), bytes: bytesOf(ids!) + bytesOf(g!) + bytesOf(out!) }),

  reference([ids, g], _, [out]) {
    const data = new Float64Array(sizeOf(out!.shape));
    const H = out!.shape[1] as number;
    ids!.data.forEach((id, i) => {
      for (let h = 0; h < H; h++) data[id * H + h]! += g!.data[i * H + h]!;
    });
    return [{ shape: out!.shape as number[], data }];
  },

  kernel: ({ inputs: [ids, g], outputs: [out], scratch }) =>
    gradientDispatches({ ids: ids!, g: g!, out: out!, scratch }),
};

/**
 * The gradient added to what is there already, input `onto` [V, H]: what a plan makes of a gradient and an add (plan/fuse.ts),
 * where a head shares the table. Rows of ids that do not occur are not touched, and no second [V, H] is made. In graphs it is
 * never met.
 */
export const embeddingGradientOntoOp: OpDefinition<{ V: number }> = {
  name: 'embedding-gradient onto',
  replaces: 2,
  infer: ([ids, g], attributes) => embeddingGradientOp.infer([ids!, g!], attributes),
  cost: ([ids, g], [out]) => ({
    flops: 2 * sizeOf(g!.shape),
    bytes: bytesOf(ids!) + bytesOf(g!) + 2 * Math.min(bytesOf(g!), bytesOf(out!)),
  }),
  kernel: ({ inputs: [ids, g, onto], outputs: [out], scratch }) =>
    gradientDispatches({ ids: ids!, g: g!, onto: onto!, out: out!, scratch }),
};

/** Without `onto` the sums begin with 0. `out` and `onto` may be one operand. */
function gradientDispatches({
  ids,
  g,
  onto,
  out,
  scratch,
}: { ids: Operand; g: Operand; onto?: Operand; out: Operand } & Pick<KernelContext, 'scratch'>): Dispatch[] {
  const [V, H] = out.shape as [number, number];
  const N = ids.size;
  const width = H % 4 === 0 ? 4 : 1;
  const element = width === 4 ? 'vec4<f32>' : 'f32';
  const columns = H / width;
  // for each place: whether its id came before, and the next place of the same id (N where there is none)
  const links = scratch([N, 2], 'i32');
  const link = flatGrid(N);
  const sum = flatGrid(N * columns);
  const windows = windowsOf(out);
  const begin = windows.map(({ rows, operand }, i): Dispatch => {
    const grid = flatGrid(rows * columns);
    const from = onto && windowsOf(onto)[i]!.operand;
    return {
      label: `embedding-gradient ${from ? 'copy' : 'clear'} ${rows}x${H}`,
      bindings: [
        ...(from ? [{ name: 'onto', operand: from, access: 'read', element } as const] : []),
        { name: 'out', operand, access: 'write', element },
      ],
      code: `${grid.entry} {
  ${grid.index}
  out[i] = ${from ? 'onto[i]' : `${element}()`};
}`,
      workgroups: grid.workgroups,
    };
  });
  return [
    ...(onto === out ? [] : begin),
    {
      label: `embedding-gradient links ${N}`,
      bindings: [
        { name: 'ids', operand: ids, access: 'read' },
        { name: 'links', operand: links, access: 'write', element: 'vec2<i32>' },
      ],
      code: `${link.entry} {
  ${link.index}
  let id = ids[i];
  var before = 0u;
  while (before < i && ids[before] != id) { before++; }
  var next = i + 1u;
  while (next < ${N}u && ids[next] != id) { next++; }
  links[i] = vec2<i32>(select(0, 1, before < i), i32(next));
}`,
      workgroups: link.workgroups,
    },
    ...windows.map(({ start, rows, operand }): Dispatch => ({
      label: `embedding-gradient ${N} of ${rows}x${H}`,
      bindings: [
        { name: 'ids', operand: ids, access: 'read' },
        { name: 'links', operand: links, access: 'read', element: 'vec2<i32>' },
        { name: 'g', operand: g, access: 'read', element },
        { name: 'out', operand, access: 'write', element },
      ],
      code: `${sum.entry} {
  ${sum.index}
  let column = i % ${columns}u;
  var place = i / ${columns}u;
  if (links[place].x == 1) { return; }
  ${rowOf('ids[place]', V, start, rows)}
  var total = ${element}();
  while (place < ${N}u) {
    total += g[place * ${columns}u + column];
    place = u32(links[place].y);
  }
  let at = row * ${columns}u + column;
  out[at] = ${onto ? 'out[at] + total' : 'total'};
}`,
      workgroups: sum.workgroups,
    })),
  ];
}

/** @param table [V, H]; @param ids i32 [B, T], each in 0 ≤ id < V */
export function embedding(table: Value, ids: Value): Value {
  return table.graph.apply(embeddingOp, [table, ids])[0]!;
}

export function embeddingGradient(ids: Value, g: Value, V: number): Value {
  return ids.graph.apply(embeddingGradientOp, [ids, g], { V })[0]!;
}
