/**
 * Adafactor (Shazeer & Stern 2018, alg. 4 and 5) as transformers.Adafactor computes it with the Trainer's settings:
 * scale_parameter and relative_step off, no first moment, eps 1e-30, clip_threshold 1. Of a matrix it keeps means of g² by
 * row and by column instead of one number an entry. Clipping by the global norm comes first; in place.
 *
 *   g ← g · min(1, max_norm / (‖g‖ + 1e-6));  w = t^−0.8
 *   row ← (1 − w) row + w (mean over columns of g² + ε);  col likewise;  u = g · √(mean(row) / row) / √col
 *   (a vector: v ← (1 − w) v + w (g² + ε);  u = g / √v)
 *   p ← p − lr·λ·p − lr · u / max(1, rms(u))
 *
 * A matrix larger than a binding is gone through in windows of whole rows, and the sums of columns go on from one window to
 * the next, so that the bits do not depend on them. (No model has a vector as large as that.)
 */
import {
  bytesOf,
  sizeOf,
  type Binding,
  type Dispatch,
  type OpDefinition,
  type Operand,
  type Value,
} from '../../graph/types.ts';
import { commonWindows, locate } from '../../graph/windows.ts';
import { CLIP_WGSL, clipFactor } from '../clipping.ts';
import { flatGrid, rolled } from '../wgsl.ts';

const EPS = 1e-30;
/** Threads that share a row, blocks of rows that share a column, and partial results of a sum. */
const LANES = 8;
const BLOCKS = 64;
const PARTIALS = 1024;

type Attributes = { decay: boolean };

interface Settings {
  readonly lr: number;
  readonly decay: number;
  readonly weight: number;
  readonly clip: number;
}

function settingsOf(hyper: Float64Array, normSquared: number, decay: boolean): Settings {
  const clip = clipFactor(hyper[7]!, normSquared);
  return { lr: hyper[0]!, decay: decay ? hyper[0]! * hyper[4]! : 0, weight: hyper[6]!, clip };
}

function stepped(parameter: Float64Array, update: Float64Array, { lr, decay }: Settings): Float64Array {
  const rms = Math.sqrt(update.reduce((sum, u) => sum + u * u, 0) / update.length);
  return parameter.map((p, i) => p - decay * p - (lr * update[i]!) / Math.max(1, rms));
}

/** The step, of an entry's `u`; total[0] is Σ u². */
const STEP = (size: number, decay: boolean): string => `let rms = sqrt(total[0] / ${size}.0);
  let p = parameter[i]${decay ? ' * (1.0 - hyper[0] * hyper[4])' : ''};
  parameter[i] = p - hyper[0] * u / max(1.0, rms);`;

const read = (name: string, operand: Binding['operand']): Binding => ({ name, operand, access: 'read' });
const write = (name: string, operand: Binding['operand']): Binding => ({ name, operand, access: 'write' });

export const adafactorOp: OpDefinition<Attributes> = {
  name: 'adafactor',
  inPlace: { 0: 0, 1: 1, 2: 2 },

  infer([parameter, row, col]) {
    const [rows, columns] = parameter!.shape;
    if (parameter!.shape.length !== 2 || row!.shape[0] !== rows || col!.shape[0] !== columns) {
      throw new RangeError(`adafactor: [${row!.shape}] and [${col!.shape}] for a matrix [${parameter!.shape}]`);
    }
    return [parameter!, row!, col!];
  },

  cost: ([parameter]) => ({ flops: 16 * sizeOf(parameter!.shape), bytes: 5 * bytesOf(parameter!) }),

  reference([parameter, row, col, grad, hyper, normSquared], { decay }) {
    const [rows, columns] = parameter!.shape as [number, number];
    const settings = settingsOf(hyper!.data, normSquared!.data[0]!, decay);
    const g = grad!.data.map((value) => value * settings.clip);
    const { weight } = settings;
    const mean = (count: number, at: (k: number) => number): number =>
      Array.from({ length: count }, (_, k) => g[at(k)]! ** 2).reduce((a, b) => a + b, 0) / count + EPS;
    const nextRow = row!.data.map((old, r) => (1 - weight) * old + weight * mean(columns, (c) => r * columns + c));
    const nextCol = col!.data.map((old, c) => (1 - weight) * old + weight * mean(rows, (r) => r * columns + c));
    const all = nextRow.reduce((a, b) => a + b, 0) / rows;
    const update = g.map((value, i) => {
      const [r, c] = [Math.floor(i / columns), i % columns];
      return (value * Math.sqrt(all / nextRow[r]!)) / Math.sqrt(nextCol[c]!);
    });
    return [
      { shape: parameter!.shape, data: stepped(parameter!.data, update, settings) },
      { shape: row!.shape, data: nextRow },
      { shape: col!.shape, data: nextCol },
    ];
  },

  kernel({ inputs: [parameter, row, col, grad, hyper, normSquared], attributes: { decay }, scratch }) {
    const [R, C] = parameter!.shape as [number, number];
    const label = `${R}x${C}`;
    const perBlock = Math.ceil(R / BLOCKS);
    const blocks = Math.ceil(R / perBlock);
    const byRow = scratch([R * LANES]);
    const byColumn = scratch([blocks * C]);
    const squares = scratch([R * LANES]);
    const total = scratch([2]);
    const join = flatGrid(R + C);
    const settings = [read('hyper', hyper!), read('norm_squared', normSquared!)];
    const windows = commonWindows(R, [
      { operand: parameter!, first: 0 },
      { operand: grad!, first: 0 },
    ]).map(({ start, rows }) => {
      const part = (name: string, operand: Operand, access: Binding['access']): Binding => ({
        name,
        ...locate(operand, start),
        length: rows * C,
        access,
      });
      return { start, rows, label: `${rows}x${C}`, part };
    });
    return [
      ...windows.map(({ start, rows, label, part }): Dispatch => {
        // the blocks that some of the rows belong to
        const first = Math.floor(start / perBlock);
        const touched = Math.ceil((start + rows) / perBlock) - first;
        const gather = flatGrid(rows * LANES + touched * C);
        return {
          label: `adafactor sums ${label}`,
          bindings: [part('grad', grad!, 'read'), write('by_row', byRow), write('by_column', byColumn)],
          code: `${gather.entry} {
  ${gather.index}
  if (i < ${rows * LANES}u) {
    var sum = 0.0;
    let start = (i / ${LANES}u) * ${C}u;
    for (var c = i % ${LANES}u; c < ${C}u; c += ${LANES}u) { sum += grad[start + c] * grad[start + c]; }
    by_row[${start * LANES}u + i] = sum;
  } else {
    let item = i - ${rows * LANES}u + ${first * C}u;
    let block = (item / ${C}u) * ${perBlock}u;
    let start = max(block, ${start}u);
    var sum = select(0.0, by_column[item], start > block);
    for (var r = start; r < min(block + ${perBlock}u, ${start + rows}u); r++) {
      let g = grad[(r - ${start}u) * ${C}u + item % ${C}u];
      sum += g * g;
    }
    by_column[item] = sum;
  }
}`,
          workgroups: gather.workgroups,
        };
      }),
      {
        label: `adafactor means ${label}`,
        bindings: [
          ...settings,
          read('by_row', byRow),
          read('by_column', byColumn),
          write('rows', row!),
          write('columns', col!),
        ],
        code: `${join.entry} {
  ${join.index}
  ${CLIP_WGSL}
  let weight = hyper[6];
  var sum = 0.0;
  if (i < ${R}u) {
    for (var lane = 0u; lane < ${rolled(LANES, 'i')}; lane++) { sum += by_row[i * ${LANES}u + lane]; }
    rows[i] = (1.0 - weight) * rows[i] + weight * (clip * clip * sum / ${C}.0 + ${EPS}f);
  } else {
    let c = i - ${R}u;
    for (var block = 0u; block < ${rolled(blocks, 'i')}; block++) { sum += by_column[block * ${C}u + c]; }
    columns[c] = (1.0 - weight) * columns[c] + weight * (clip * clip * sum / ${R}.0 + ${EPS}f);
  }
}`,
        workgroups: join.workgroups,
      },
      ...windows.map(({ start, rows, label, part }): Dispatch => {
        const lanes = flatGrid(rows * LANES);
        return {
          label: `adafactor lengths ${label}`,
          bindings: [
            ...settings,
            part('grad', grad!, 'read'),
            write('rows', row!),
            write('columns', col!),
            write('squares', squares),
          ],
          code: `${lanes.entry} {
  ${lanes.index}
  ${CLIP_WGSL}
  let r = i / ${LANES}u;
  var sum = 0.0;
  for (var c = i % ${LANES}u; c < ${C}u; c += ${LANES}u) {
    let g = clip * grad[r * ${C}u + c] * inverseSqrt(columns[c]);
    sum += g * g;
  }
  squares[${start * LANES}u + i] = sum / rows[${start}u + r];
}`,
          workgroups: lanes.workgroups,
        };
      }),
      {
        label: `adafactor total ${label}`,
        bindings: [write('rows', row!), read('squares', squares), write('total', total)],
        code: `var<workgroup> sums: array<vec2<f32>, 64>;
@compute @workgroup_size(64) fn main(@builtin(local_invocation_index) lid: u32) {
  var sum = vec2<f32>();
  for (var k = lid; k < ${R}u; k += 64u) { sum.x += rows[k]; }
  for (var k = lid; k < ${R * LANES}u; k += 64u) { sum.y += squares[k]; }
  sums[lid] = sum;
  workgroupBarrier();
  if (lid == 0u) {
    var all = vec2<f32>();
    for (var k = 0u; k < 64u; k++) { all += sums[k]; }
    let mean = all.x / ${R}.0;
    total[0] = mean * all.y;
    total[1] = mean;
  }
}`,
        workgroups: [1, 1, 1],
      },
      ...windows.map(({ start, rows, label, part }): Dispatch => {
        const entries = flatGrid(rows * C);
        return {
          label: `adafactor ${label}`,
          bindings: [
            ...settings,
            part('grad', grad!, 'read'),
            write('rows', row!),
            write('columns', col!),
            read('total', total),
            part('parameter', parameter!, 'write'),
          ],
          code: `${entries.entry} {
  ${entries.index}
  ${CLIP_WGSL}
  let u = clip * grad[i] * sqrt(total[1] / rows[${start}u + i / ${C}u]) * inverseSqrt(columns[i % ${C}u]);
  ${STEP(R * C, decay)}
}`,
          workgroups: entries.workgroups,
        };
      }),
    ];
  },
};

export const adafactorVectorOp: OpDefinition<Attributes> = {
  name: 'adafactor-vector',
  inPlace: { 0: 0, 1: 1 },
  infer: ([parameter, v]) => [parameter!, v!],
  cost: ([parameter]) => ({ flops: 12 * sizeOf(parameter!.shape), bytes: 6 * bytesOf(parameter!) }),

  reference([parameter, v, grad, hyper, normSquared], { decay }) {
    const settings = settingsOf(hyper!.data, normSquared!.data[0]!, decay);
    const { clip, weight } = settings;
    const next = v!.data.map((old, i) => (1 - weight) * old + weight * ((clip * grad!.data[i]!) ** 2 + EPS));
    const update = grad!.data.map((g, i) => (clip * g) / Math.sqrt(next[i]!));
    return [
      { shape: parameter!.shape, data: stepped(parameter!.data, update, settings) },
      { shape: v!.shape, data: next },
    ];
  },

  kernel({ inputs: [parameter, v, grad, hyper, normSquared], attributes: { decay }, scratch }) {
    const { size } = parameter!;
    const partials = scratch([PARTIALS]);
    const total = scratch([1]);
    const first = flatGrid(PARTIALS);
    const entries = flatGrid(size);
    const inputs = [read('grad', grad!), read('hyper', hyper!), read('norm_squared', normSquared!), write('v', v!)];
    return [
      {
        label: `adafactor-vector means ${size}`,
        bindings: [...inputs, write('partial_sums', partials)],
        code: `${first.entry} {
  ${first.index}
  ${CLIP_WGSL}
  var sum = 0.0;
  for (var k = i; k < ${size}u; k += ${PARTIALS}u) {
    let g = clip * grad[k];
    let next = (1.0 - hyper[6]) * v[k] + hyper[6] * (g * g + ${EPS}f);
    v[k] = next;
    let u = g * inverseSqrt(next);
    sum += u * u;
  }
  partial_sums[i] = sum;
}`,
        workgroups: first.workgroups,
      },
      {
        label: `adafactor-vector total ${size}`,
        bindings: [read('partial_sums', partials), write('total', total)],
        code: `var<workgroup> sums: array<f32, 64>;
@compute @workgroup_size(64) fn main(@builtin(local_invocation_index) lid: u32) {
  var sum = 0.0;
  for (var k = lid; k < ${PARTIALS}u; k += 64u) { sum += partial_sums[k]; }
  sums[lid] = sum;
  workgroupBarrier();
  if (lid == 0u) {
    var all = 0.0;
    for (var k = 0u; k < 64u; k++) { all += sums[k]; }
    total[0] = all;
  }
}`,
        workgroups: [1, 1, 1],
      },
      {
        label: `adafactor-vector ${size}`,
        bindings: [...inputs, read('total', total), write('parameter', parameter!)],
        code: `${entries.entry} {
  ${entries.index}
  ${CLIP_WGSL}
  let u = clip * grad[i] * inverseSqrt(v[i]);
  ${STEP(size, decay)}
}`,
        workgroups: entries.workgroups,
      },
    ];
  },
};

/**
 * @param state what is kept: means by row [R] and by column [C] of a matrix, one an entry of a vector
 * @param hyper f32[8], as adamw's, but that entry 6 is t^−0.8; betas and epsilon don't count
 * @param normSquared f32[1]: the squared global norm of all gradients
 */
export function adafactor(
  parameter: Value,
  state: readonly [row: Value, col: Value] | readonly [v: Value],
  grad: Value,
  hyper: Value,
  normSquared: Value,
  attributes: Attributes,
): readonly Value[] {
  const op = state.length === 2 ? adafactorOp : adafactorVectorOp;
  return parameter.graph.apply(op, [parameter, ...state, grad, hyper, normSquared], attributes);
}
