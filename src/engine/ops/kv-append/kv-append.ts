/** Writes the T new rows of a batch into a key-value cache at rows past_length, past_length + 1, ... in place. */
import { bytesOf, type OpDefinition, type Value } from '../../graph/types.ts';
import { flatGrid } from '../wgsl.ts';

export const kvAppendOp: OpDefinition = {
  name: 'kv-append',
  inPlace: { 0: 0 },

  infer([cache, x]) {
    const [c, s] = [cache!.shape, x!.shape];
    if (c.length !== 3 || s.length !== 3 || c[0] !== s[0] || c[2] !== s[2]) {
      throw new RangeError(`kvAppend: rows [${s}] do not fit a cache [${c}]`);
    }
    return [cache!];
  },

  cost: ([, x]) => ({ flops: 0, bytes: 2 * bytesOf(x!) }),

  reference([cache, x, past]) {
    const [B, S, C] = cache!.shape as [number, number, number];
    const T = x!.shape[1]!;
    const data = cache!.data.slice();
    for (let b = 0; b < B; b++)
      for (let t = 0; t < T && past!.data[0]! + t < S; t++)
        data.set(x!.data.subarray((b * T + t) * C, (b * T + t + 1) * C), (b * S + past!.data[0]! + t) * C);
    return [{ shape: cache!.shape, data }];
  },

  kernel({ inputs: [cache, x, past] }) {
    const [B, S, C] = cache!.shape as [number, number, number];
    const T = x!.shape[1]!;
    const width = C % 4 === 0 ? 4 : 1;
    const element = width === 4 ? 'vec4<f32>' : 'f32';
    const columns = C / width;
    const grid = flatGrid(B * T * columns);
    return [
      {
        label: `kv-append ${B}x${T}x${C}`,
        bindings: [
          { name: 'x', operand: x!, access: 'read', element },
          { name: 'past_length', operand: past!, access: 'read' },
          { name: 'cache', operand: cache!, access: 'write', element },
        ],
        code: `${grid.entry} {
  ${grid.index}
  let row = i / ${columns}u;
  let at = u32(past_length[0]) + row % ${T}u;
  if (at >= ${S}u) { return; }
  cache[((row / ${T}u) * ${S}u + at) * ${columns}u + i % ${columns}u] = x[i];
}`,
        workgroups: grid.workgroups,
      },
    ];
  },
};

/**
 * @param cache [B, S, C], changed in place
 * @param x [B, T, C]
 * @param pastLength i32[1]: rows the cache holds already; rows beyond its capacity are left out
 */
export function kvAppend(cache: Value, x: Value, pastLength: Value): Value {
  return cache.graph.apply(kvAppendOp, [cache, x, pastLength])[0]!;
}
