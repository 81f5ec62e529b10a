/**
 * Rows of a table by id: [V, H] and i32 [B, T] ─▶ [B, T, H]. The gradient is a dense [V, H], made in a fixed order: the
 * first place of each id adds up all its places, front to back, along a chain that one small kernel links.
 */
import { weightReader } from '../../graph/packing.ts';
import { bytesOf, sizeOf, type OpDefinition, type Value } from '../../graph/types.ts';
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
    const at = `(id * ${columns}u + i % ${columns}u) * ${width}u`;
    const grid = flatGrid(ids!.size * columns);
    return [
      {
        label: `embedding ${ids!.shape.join('x')} of ${V}x${H}`,
        bindings: [
          { name: 'table', operand: table!, access: 'read', element: reader.element },
          { name: 'ids', operand: ids!, access: 'read' },
          { name: 'out', operand: out!, access: 'write', element },
        ],
        code: `${reader.functions}${grid.entry} {
  ${grid.index}
  let id = u32(clamp(ids[i / ${columns}u], 0, ${V - 1}));
  out[i] = ${width === 4 ? reader.four(at) : reader.one(at)};
}`,
        workgroups: grid.workgroups,
      },
    ];
  },
};

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

  kernel({ inputs: [ids, g], outputs: [out], scratch }) {
    const [V, H] = out!.shape as [number, number];
    const N = ids!.size;
    const width = H % 4 === 0 ? 4 : 1;
    const element = width === 4 ? 'vec4<f32>' : 'f32';
    const columns = H / width;
    // for each place: whether its id came before, and the next place of the same id (N where there is none)
    const links = scratch([N, 2], 'i32');
    const clear = flatGrid(V * columns);
    const link = flatGrid(N);
    const sum = flatGrid(N * columns);
    return [
      {
        label: `embedding-gradient clear ${V}x${H}`,
        bindings: [{ name: 'out', operand: out!, access: 'write', element }],
        code: `${clear.entry} {
  ${clear.index}
  out[i] = ${element}();
}`,
        workgroups: clear.workgroups,
      },
      {
        label: `embedding-gradient links ${N}`,
        bindings: [
          { name: 'ids', operand: ids!, access: 'read' },
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
      {
        label: `embedding-gradient ${N} of ${V}x${H}`,
        bindings: [
          { name: 'ids', operand: ids!, access: 'read' },
          { name: 'links', operand: links, access: 'read', element: 'vec2<i32>' },
          { name: 'g', operand: g!, access: 'read', element },
          { name: 'out', operand: out!, access: 'write', element },
        ],
        code: `${sum.entry} {
  ${sum.index}
  let column = i % ${columns}u;
  var place = i / ${columns}u;
  if (links[place].x == 1) { return; }
  let id = u32(clamp(ids[place], 0, ${V - 1}));
  var total = ${element}();
  while (place < ${N}u) {
    total += g[place * ${columns}u + column];
    place = u32(links[place].y);
  }
  out[id * ${columns}u + column] = total;
}`,
        workgroups: sum.workgroups,
      },
    ];
  },
};

/** @param table [V, H]; @param ids i32 [B, T], each in 0 ≤ id < V */
export function embedding(table: Value, ids: Value): Value {
  return table.graph.apply(embeddingOp, [table, ids])[0]!;
}

export function embeddingGradient(ids: Value, g: Value, V: number): Value {
  return ids.graph.apply(embeddingGradientOp, [ids, g], { V })[0]!;
}
