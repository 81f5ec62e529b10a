/**
 * f32 to f16, two a word (packing.ts): how an activation waits for the backward pass in half the bytes. Rounded to nearest;
 * from 65520 on a number becomes an infinity, which WGSL's pack2x16float leaves open (§16.8) and whoever watches the norm of the
 * gradients must see. Read again inside matmul, or by `unpack`.
 *
 * `early`: it runs as soon as its input exists, so that the f32 numbers need not wait for it.
 */
import { bytesOf, sizeOf, type Dispatch, type OpDefinition, type Value } from '../../graph/types.ts';
import { commonWindows, locate, matrixOf } from '../../graph/windows.ts';
import { flatGrid } from '../wgsl.ts';

export const packOp: OpDefinition = {
  name: 'pack',
  early: true,

  infer: ([x]) => [{ shape: x!.shape, dtype: 'f16' }],
  cost: ([x], [out]) => ({ flops: sizeOf(x!.shape), bytes: bytesOf(x!) + bytesOf(out!) }),
  reference: ([x]) => [{ shape: x!.shape, data: x!.data.map(toHalf) }],

  kernel({ inputs: [x], outputs: [out] }) {
    const { rows, width } = matrixOf(x!);
    return commonWindows(rows, [
      { operand: x!, first: 0 },
      { operand: out!, first: 0 },
    ]).map((window): Dispatch => {
      const [from, to] = [locate(x!, window.start), locate(out!, window.start)];
      const length = window.rows * width;
      const pairs = length % 2 === 0;
      const grid = flatGrid(Math.ceil(length / 2));
      // a number without a neighbour has 0 beside it
      const load = pairs
        ? 'x[i]'
        : `vec2<f32>(x[2u * i], select(0.0, x[min(2u * i + 1u, ${length - 1}u)], 2u * i + 1u < ${length}u))`;
      return {
        label: `pack f16 ${window.rows}x${width}`,
        bindings: [
          { name: 'x', ...from, length, access: 'read', element: pairs ? 'vec2<f32>' : 'f32' },
          { name: 'out', ...to, length, access: 'write', element: 'u32' },
        ],
        code: `${grid.entry} {
  ${grid.index}
  let two = ${load};
  let bits = bitcast<vec2<u32>>(two);
  // not below: NaN is among them
  let beyond = (bits & vec2<u32>(0x7fffffffu)) >= vec2<u32>(${LEAST_BEYOND_BITS}u);
  let half = pack2x16float(select(two, vec2<f32>(0.0), beyond));
  let infinity = vec2<u32>(0x7c00u) | ((bits >> vec2<u32>(16u)) & vec2<u32>(0x8000u));
  let over = select(vec2<u32>(0u), infinity, beyond);
  out[i] = half | over.x | (over.y << 16u);
}`,
        workgroups: grid.workgroups,
      };
    });
  },
};

/** 65520, half way between the largest f16 and the next power of two, as f32. */
const LEAST_BEYOND = 65520;
const LEAST_BEYOND_BITS = new Uint32Array(Float32Array.of(LEAST_BEYOND).buffer)[0]!;

/** The nearest f16, ties to even. A step is 2⁻²⁴ below 2⁻¹⁴, the smallest normal, and 2⁻¹⁰ of the power of two above. */
export function toHalf(value: number): number {
  const magnitude = Math.abs(value);
  if (!(magnitude < LEAST_BEYOND)) return value < 0 ? -Infinity : Infinity;
  const step = 2 ** (Math.max(-14, Math.floor(Math.log2(magnitude || 1))) - 10);
  const steps = magnitude / step;
  const down = Math.floor(steps);
  const rest = steps - down;
  const nearest = rest > 0.5 || (rest === 0.5 && down % 2 === 1) ? down + 1 : down;
  return Math.sign(value) * nearest * step;
}

/** @param x f32 of any shape @returns the same numbers, f16 */
export function pack(x: Value): Value {
  return x.graph.apply(packOp, [x])[0]!;
}
