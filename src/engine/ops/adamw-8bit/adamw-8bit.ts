/**
 * AdamW with moments of a byte an entry, as bitsandbytes' AdamW8bit keeps them (optimizer_update_8bit_blockwise):
 * blocks of 256 entries share the largest size in them, and each entry is the nearest of the 256 numbers of a map
 * (codes.ts) times that. Clipping by the global norm comes first; in place.
 *
 *   g ← g · min(1, max_norm / (‖g‖ + 1e-6));  m ← β1 m + (1 − β1) g;  v ← β2 v + (1 − β2) g²
 *   p ← p − lr·λ·p − (lr / c1) · m / (√v / √c2 + ε)        c1 = 1 − β1^t, c2 = 1 − β2^t;  then m and v are rounded
 *
 * A moment that would round to 0 from below takes the largest code below 0, so that it keeps its sign, as there.
 *
 * Tensors larger than a binding are updated in runs of blocks that lie in one window of each: windows begin with a block.
 */
import {
  bytesOf,
  sizeOf,
  type Dispatch,
  type OpDefinition,
  type Operand,
  type TensorType,
  type Value,
} from '../../graph/types.ts';
import { commonWindows, locate } from '../../graph/windows.ts';
import { CLIP_WGSL, clipFactor } from '../clipping.ts';
import { MAX_OF_64_THREADS, rowGrid } from '../wgsl.ts';
import { CODES } from './codes.ts';

/** Entries that share their largest size. A thread of 64 has the four of a word. */
export const BLOCK = 256;

/** What is kept of `size` entries: four bytes a word of each moment, and the largest of each block, of m and then of v. */
export function statesOf8bit(size: number): Readonly<Record<'m' | 'v' | 'absmax', TensorType>> {
  const words: TensorType = { shape: [Math.ceil(size / 4)], dtype: 'i32' };
  return { m: words, v: words, absmax: { shape: [2 * Math.ceil(size / BLOCK)], dtype: 'f32' } };
}

export const adamw8bitOp: OpDefinition<{ decay: boolean }> = {
  name: 'adamw-8bit',
  inPlace: { 0: 0, 1: 1, 2: 2, 3: 3 },

  infer([parameter, m, v, absmax]) {
    const kept = statesOf8bit(sizeOf(parameter!.shape));
    if (String(m!.shape) !== String(kept.m.shape) || String(absmax!.shape) !== String(kept.absmax.shape)) {
      throw new RangeError(`adamw-8bit: [${m!.shape}] and [${absmax!.shape}] for [${parameter!.shape}]`);
    }
    return [parameter!, m!, v!, absmax!];
  },

  cost: ([parameter]) => ({ flops: 60 * sizeOf(parameter!.shape), bytes: 4 * bytesOf(parameter!) }),

  reference([parameter, m, v, absmax, grad, hyper, normSquared, codes], { decay }) {
    const [lr, beta1, beta2, eps, weightDecay, c1, c2, maxNorm] = [...hyper!.data] as [
      number,
      number,
      number,
      number,
      number,
      number,
      number,
      number,
    ];
    const clip = clipFactor(maxNorm, normSquared!.data[0]!);
    const maps = [codes!.data.subarray(0, 256), codes!.data.subarray(256, 512)] as const;
    const next = parameter!.data.slice();
    const words = [new Float64Array(m!.data.length), new Float64Array(v!.data.length)] as const;
    const largest = absmax!.data.slice();
    const blocks = largest.length / 2;
    const byteOf = (data: Float64Array, i: number): number => (data[i >> 2]! >> (8 * (i & 3))) & 255;
    for (let block = 0; block < blocks; block++) {
      const places = Array.from({ length: Math.min(BLOCK, next.length - block * BLOCK) }, (_, i) => block * BLOCK + i);
      const moments = places.map((i) => {
        const g = clip * grad!.data[i]!;
        const oldM = maps[0][byteOf(m!.data, i)]! * absmax!.data[block]!;
        const oldV = maps[1][byteOf(v!.data, i)]! * absmax!.data[blocks + block]!;
        return [beta1 * oldM + (1 - beta1) * g, beta2 * oldV + (1 - beta2) * g * g] as const;
      });
      places.forEach((i, k) => {
        const [nextM, nextV] = moments[k]!;
        const p = decay ? next[i]! * (1 - lr * weightDecay) : next[i]!;
        next[i] = p - ((lr / c1) * nextM) / (Math.sqrt(nextV) / Math.sqrt(c2) + eps);
      });
      for (const which of [0, 1] as const) {
        const size = Math.max(...moments.map((pair) => Math.abs(pair[which])));
        largest[which * blocks + block] = size;
        places.forEach((i, k) => {
          const value = moments[k]![which];
          const code = nearest(maps[which], size > 0 ? value / size : 0, value < 0);
          const shift = 8 * (i & 3);
          words[which][i >> 2] = words[which][i >> 2]! | (code << shift);
        });
      }
    }
    return [
      { shape: parameter!.shape, data: next },
      { shape: m!.shape, data: words[0] },
      { shape: v!.shape, data: words[1] },
      { shape: absmax!.shape, data: largest },
    ];
  },

  kernel({ inputs: [parameter, m, v, absmax, grad, hyper, normSquared, codes], attributes: { decay } }) {
    const blocks = absmax!.size / 2;
    const WORDS = BLOCK / 4;
    const runs = commonWindows(blocks, [
      ...[parameter!, grad!].map((operand) => ({ operand, first: 0, width: BLOCK })),
      ...[m!, v!].map((operand) => ({ operand, first: 0, width: WORDS })),
    ]);
    return runs.map((run): Dispatch => {
      const size = Math.min(parameter!.size - run.start * BLOCK, run.rows * BLOCK);
      const part = (operand: Operand, width: number) => ({
        ...locate(operand, run.start, width),
        length: Math.ceil((size * width) / BLOCK),
      });
      const grid = rowGrid(run.rows);
      return {
        label: `adamw-8bit ${size}`,
        bindings: [
          { name: 'parameter', ...part(parameter!, BLOCK), access: 'write' },
          { name: 'm', ...part(m!, WORDS), access: 'write' },
          { name: 'v', ...part(v!, WORDS), access: 'write' },
          { name: 'absmax', operand: absmax!, access: 'write' },
          { name: 'grad', ...part(grad!, BLOCK), access: 'read' },
          { name: 'hyper', operand: hyper!, access: 'read' },
          { name: 'norm_squared', operand: normSquared!, access: 'read' },
          { name: 'codes', operand: codes!, access: 'read' },
        ],
        code: `${MAX_OF_64_THREADS}
/** The nearest code of the map that starts at 'base', by bisection of the middles between its codes. */
fn nearest(base: u32, x: f32) -> u32 {
  var low = 0u;
  for (var step = 128u; step > 0u; step /= 2u) {
    if (x > codes[512u + base + low + step - 1u]) { low += step; }
  }
  return low;
}
${grid.entry} {
  ${grid.index}
  ${CLIP_WGSL}
  let block = row + ${run.start}u;
  let word = row * ${WORDS}u + lid;
  let first = 4u * word;
  let count = min(4u, ${size}u - min(first, ${size}u));
  var old_m = 0u;
  var old_v = 0u;
  if (count > 0u) {
    old_m = bitcast<u32>(m[word]);
    old_v = bitcast<u32>(v[word]);
  }
  var next_m = vec4<f32>();
  var next_v = vec4<f32>();
  for (var k = 0u; k < count; k++) {
    let g = clip * grad[first + k];
    let before_m = codes[(old_m >> (8u * k)) & 255u] * absmax[block];
    let before_v = codes[256u + ((old_v >> (8u * k)) & 255u)] * absmax[${blocks}u + block];
    next_m[k] = hyper[1] * before_m + (1.0 - hyper[1]) * g;
    next_v[k] = hyper[2] * before_v + (1.0 - hyper[2]) * g * g;
    let p = parameter[first + k]${decay ? ' * (1.0 - hyper[0] * hyper[4])' : ''};
    parameter[first + k] = p - (hyper[0] / hyper[5]) * next_m[k] / (sqrt(next_v[k]) / sqrt(hyper[6]) + hyper[3]);
  }
  let sizes = abs(next_m);
  let largest_m = max_threads(lid, max(max(sizes.x, sizes.y), max(sizes.z, sizes.w)));
  let largest_v = max_threads(lid, max(max(next_v.x, next_v.y), max(next_v.z, next_v.w)));
  var new_m = 0u;
  var new_v = 0u;
  for (var k = 0u; k < count; k++) {
    var code = nearest(0u, select(0.0, next_m[k] / largest_m, largest_m > 0.0));
    if (next_m[k] < 0.0 && codes[code] >= 0.0) { code -= 1u; }
    new_m |= code << (8u * k);
    new_v |= nearest(256u, select(0.0, next_v[k] / largest_v, largest_v > 0.0)) << (8u * k);
  }
  if (count > 0u) {
    m[word] = bitcast<i32>(new_m);
    v[word] = bitcast<i32>(new_v);
  }
  if (lid == 0u) {
    absmax[block] = largest_m;
    absmax[${blocks}u + block] = largest_v;
  }
}`,
        workgroups: grid.workgroups,
      };
    });
  },
};

/** The nearest code; one of a negative number stays below 0. */
function nearest(map: Float64Array, x: number, negative: boolean): number {
  let [low, high] = [0, 255];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (map[middle]! <= x) low = middle;
    else high = middle;
  }
  const best = map[high]! - x < x - map[low]! ? high : low;
  return negative && map[best]! >= 0 ? best - 1 : best;
}

/**
 * @param states m and v i32 [⌈size / 4⌉] and absmax f32 [2 · blocks], of `statesOf8bit`; zeros at the start
 * @param hyper f32[8], as adamw's
 * @param normSquared f32[1]: the squared global norm of all gradients
 */
export function adamw8bit(
  parameter: Value,
  states: readonly [m: Value, v: Value, absmax: Value],
  grad: Value,
  hyper: Value,
  normSquared: Value,
  attributes: { decay: boolean },
): readonly Value[] {
  const { graph } = parameter;
  const codes = graph.constant('adamw-8bit.codes', [CODES.length], CODES);
  return graph.apply(adamw8bitOp, [parameter, ...states, grad, hyper, normSquared, codes], attributes);
}
