/** New keys or values into a cache, in place: cache[b, past_length + t] = x[b, t]. What does not fit is not written. */
import { bytesOf, type OpDefinition, type Value } from '../../graph/types.ts';
import { flatGrid } from '../wgsl.ts';

export const kvAppendOp: OpDefinition = {
  name: 'kv-append',
  inPlace: { 0: 0 },

  infer([cache, x]) {
    if (cache!.shape[0] !== x!.shape[0] || cache!.shape[2] !== x!.shape[2]) {
      throw new RangeError(`kv-append: [${x!.shape}] into [${cache!.shape}]`);
    }
    return [cache!];
  },

  cost: ([, x]) => ({ flops: 0, bytes: 2 * bytesOf(x!) }),

  reference([cache, x, past]) {
    const [batch, capacity, width] = cache!.shape as [number, number, number];
    const tokens = x!.shape[1]!;
    const data = cache!.data.slice();
    for (let b = 0; b < batch; b++) {
      for (let t = 0; t < tokens; t++) {
        const row = past!.data[0]! + t;
        if (row >= capacity) continue;
        const from = (b * tokens + t) * width;
        data.set(x!.data.subarray(from, from + width), (b * capacity + row) * width);
      }
    }
    return [{ shape: cache!.shape, data }];
  },

  kernel({ inputs: [cache, x, past] }) {
    const [, capacity, width] = cache!.shape as [number, number, number];
    const tokens = x!.shape[1]!;
    const grid = flatGrid(x!.size);
    return [
      {
        label: `kv-append ${x!.shape.join('x')}`,
        bindings: [
          { name: 'cache', operand: cache!, access: 'write' },
          { name: 'x', operand: x!, access: 'read' },
          { name: 'past_length', operand: past!, access: 'read' },
        ],
        code: `${grid.entry} {
  ${grid.index}
  let b = i / ${tokens * width}u;
  let row = u32(past_length[0]) + (i / ${width}u) % ${tokens}u;
  if (row < ${capacity}u) { cache[(b * ${capacity}u + row) * ${width}u + i % ${width}u] = x[i]; }
}`,
        workgroups: grid.workgroups,
      },
    ];
  },
};

/**
 * @param cache f32 [batch, capacity, width], a state
 * @param x f32 [batch, tokens, width]
 * @param pastLength i32[1]
 */
export function kvAppend(cache: Value, x: Value, pastLength: Value): Value {
  return cache.graph.apply(kvAppendOp, [cache, x, pastLength])[0]!;
}
