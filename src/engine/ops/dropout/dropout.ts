/**
 * Inverted dropout: entries are zeroed with probability p, kept ones scaled by 1/(1 − p). The mask is a pure function of
 * seed, step, site (which dropout of the model) and place, so the gradient, a recomputation and a resumed run repeat it.
 */
import { bytesOf, sizeOf, type OpDefinition, type Value } from '../../graph/types.ts';
import { PHILOX_WGSL, philox } from '../philox.ts';
import { f32, flatGrid } from '../wgsl.ts';

type DropoutAttributes = { p: number; site: number };

export const dropoutOp: OpDefinition<DropoutAttributes> = {
  name: 'dropout',

  infer([x, seed], { p }) {
    if (!(p >= 0 && p < 1)) throw new RangeError(`dropout: a probability of ${p}`);
    if (seed!.dtype !== 'i32' || seed!.shape[0] !== 2) throw new RangeError('dropout: the seed is i32[2]: seed, step');
    return [x!];
  },

  cost: ([x]) => ({ flops: 25 * sizeOf(x!.shape), bytes: 2 * bytesOf(x!) }),

  // the same mask on the same places
  gradient: (node, [g]) => [g!.graph.apply(dropoutOp, [g!, node.inputs[1]!], node.attributes)[0]],

  reference([x, seed], { p, site }) {
    const [key, step] = seed!.data;
    const data = new Float64Array(x!.data.length);
    for (let start = 0; start < data.length; start += 4) {
      const words = philox([start / 4, site, step!, 0], [key!, 0]);
      for (let i = start; i < Math.min(start + 4, data.length); i++)
        data[i] = words[i - start]! >= threshold(p) ? x!.data[i]! / (1 - p) : 0;
    }
    return [{ shape: x!.shape, data }];
  },

  kernel({ inputs: [x, seed], outputs: [out], attributes: { p, site } }) {
    const quads = Math.ceil(x!.size / 4);
    const grid = flatGrid(quads);
    const even = x!.size % 4 === 0;
    const kept = `select(vec4<f32>(), vec4<f32>(${f32(1 / (1 - p))}), words >= vec4<u32>(${threshold(p)}u))`;
    return [
      {
        label: `dropout ${x!.shape.join('x')}`,
        bindings: [
          { name: 'x', operand: x!, access: 'read', element: even ? 'vec4<f32>' : 'f32' },
          { name: 'seed', operand: seed!, access: 'read' },
          { name: 'out', operand: out!, access: 'write', element: even ? 'vec4<f32>' : 'f32' },
        ],
        code: `${PHILOX_WGSL}${grid.entry} {
  ${grid.index}
  let words = philox(vec4<u32>(i, ${site}u, bitcast<u32>(seed[1]), 0u), vec2<u32>(bitcast<u32>(seed[0]), 0u));
  let kept = ${kept};
  ${
    even
      ? 'out[i] = x[i] * kept;'
      : `for (var j = 0u; j < min(4u, ${x!.size}u - 4u * i); j++) { out[4u * i + j] = x[4u * i + j] * kept[j]; }`
  }
}`,
        workgroups: grid.workgroups,
      },
    ];
  },
};

/** A word below this drops its entry. */
const threshold = (p: number): number => Math.min(2 ** 32 - 1, Math.round(p * 2 ** 32));

/**
 * @param seed i32[2]: the run's seed and the step
 * @param site a number of its own for each dropout of a model
 */
export function dropout(x: Value, seed: Value, { p, site }: { readonly p: number; readonly site: number }): Value {
  return x.graph.apply(dropoutOp, [x, seed], { p, site })[0]!;
}
