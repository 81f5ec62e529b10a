/**
 * How far a student's hidden states are from a teacher's, over the tokens that count: feature distillation (DESIGN's
 * `feature_weight`; TinyBERT §3.1, eq. 8; DistilBERT §3).
 *
 *   mse     Σ_rows w · mean (s − t)²             ds = g·w · 2 (s − t) / H
 *   cosine  Σ_rows w · (1 − s·t / (‖s‖ ‖t‖))     ds = g·w · (s (s·t)/‖s‖² − t) / (‖s‖ ‖t‖)
 *
 * Both are the same seen from either side, so the teacher's gradient is the student's with the two exchanged. Norms are at
 * least 1e-8, as torch.nn.CosineSimilarity's; of 1 − cos, f32 keeps 1e-7 of 1. A row's sums are made again in the backward
 * pass: a read, and nothing kept.
 */
import {
  bytesOf,
  sameShape,
  showType,
  sizeOf,
  type OpDefinition,
  type Operand,
  type Value,
} from '../../graph/types.ts';
import { allLanes, dot, LANES, rowPasses, rowShape } from '../row-passes.ts';
import { sumLeadingDispatches } from '../sum-leading/sum-leading.ts';
import { f32, flatGrid } from '../wgsl.ts';

type HiddenLossAttributes = { kind: 'mse' | 'cosine' };

const LEAST = 1e-8;

export const hiddenLossOp: OpDefinition<HiddenLossAttributes> = {
  name: 'hidden-loss',

  infer([student, teacher, weights]) {
    const rows = student!.shape.slice(0, -1);
    if (!sameShape(student!.shape, teacher!.shape) || sizeOf(weights!.shape) !== sizeOf(rows)) {
      throw new RangeError(
        `hiddenLoss: ${showType(student!)} and ${showType(teacher!)}, weights ${showType(weights!)}`,
      );
    }
    return [{ shape: [1], dtype: 'f32' }];
  },

  cost: ([student]) => ({ flops: 6 * sizeOf(student!.shape), bytes: 2 * bytesOf(student!) }),

  gradient(node, [g], needed) {
    const [student, teacher, weights] = node.inputs as [Value, Value, Value];
    if (needed[2]) throw new RangeError('hiddenLoss: the weights of tokens have no gradient');
    const towards = (from: Value, to: Value): Value =>
      from.graph.apply(hiddenLossGradientOp as OpDefinition, [from, to, weights, g!], node.attributes)[0]!;
    return [
      needed[0] ? towards(student, teacher) : undefined,
      needed[1] ? towards(teacher, student) : undefined,
      undefined,
    ];
  },

  reference([student, teacher, weights], { kind }) {
    const H = student!.shape.at(-1)!;
    let loss = 0;
    weights!.data.forEach((weight, row) => {
      const { squares, others, product, distance } = sumsOf(student!.data, teacher!.data, row * H, H);
      loss += weight * (kind === 'mse' ? distance / H : 1 - product / (norm(squares) * norm(others)));
    });
    return [{ shape: [1], data: Float64Array.of(loss) }];
  },

  kernel(context) {
    const [student, teacher, weights] = context.inputs as [Operand, Operand, Operand];
    const { kind } = context.attributes;
    const { H, rows, width, element, columns } = rowShape(student);
    const names = kind === 'mse' ? ['distance'] : ['squares', 'others', 'product'];
    const kept = context.scratch([rows, LANES, names.length]);
    const ofRows = context.scratch([rows, 1]);
    const lanes = flatGrid(rows * LANES);
    const grid = flatGrid(rows);
    const all = (name: string, n: number): string =>
      allLanes.map((lane) => `kept[i * ${LANES * names.length}u + ${lane * names.length + n}u]`).join(' + ') +
      `; // ${name}`;
    const terms =
      kind === 'mse' ? [dot('d', 'd', width)] : [dot('s', 's', width), dot('t', 't', width), dot('s', 't', width)];
    return [
      {
        label: `hidden-loss sums ${rows}x${H}`,
        bindings: [
          { name: 'student', operand: student, access: 'read', element },
          { name: 'teacher', operand: teacher, access: 'read', element },
          { name: 'kept', operand: kept, access: 'write' },
        ],
        code: `${lanes.entry} {
  ${lanes.index}
  let start = (i / ${LANES}u) * ${columns}u;
  ${names.map((name) => `var ${name} = 0.0;`).join(' ')}
  for (var c = i % ${LANES}u; c < ${columns}u; c += ${LANES}u) {
    let s = student[start + c];
    let t = teacher[start + c];
    ${kind === 'mse' ? 'let d = s - t;' : ''}
    ${names.map((name, n) => `${name} += ${terms[n]};`).join(' ')}
  }
  ${names.map((name, n) => `kept[i * ${names.length}u + ${n}u] = ${name};`).join(' ')}
}`,
        workgroups: lanes.workgroups,
      },
      {
        label: `hidden-loss ${rows}`,
        bindings: [
          { name: 'kept', operand: kept, access: 'read' },
          { name: 'weights', operand: weights, access: 'read' },
          { name: 'of_rows', operand: ofRows, access: 'write' },
        ],
        code: `${grid.entry} {
  ${grid.index}
  ${names.map((name, n) => `let ${name} = ${all(name, n)}`).join('\n  ')}
  of_rows[i] = weights[i] * (${kind === 'mse' ? `distance / ${f32(H)}` : `1.0 - product / (${NORM('squares')} * ${NORM('others')})`});
}`,
        workgroups: grid.workgroups,
      },
      ...sumLeadingDispatches(context, ofRows, context.outputs[0]!),
    ];
  },
};

const hiddenLossGradientOp: OpDefinition<HiddenLossAttributes> = {
  name: 'hidden-loss-gradient',

  infer: ([from]) => [from!],

  cost: ([from]) => ({ flops: 10 * sizeOf(from!.shape), bytes: 3 * bytesOf(from!) }),

  reference([from, to, weights, g], { kind }) {
    const H = from!.shape.at(-1)!;
    const data = new Float64Array(from!.data.length);
    weights!.data.forEach((weight, row) => {
      const scale = g!.data[0]! * weight;
      const { squares, others, product } = sumsOf(from!.data, to!.data, row * H, H);
      for (let i = row * H; i < (row + 1) * H; i++) {
        const [s, t] = [from!.data[i]!, to!.data[i]!];
        data[i] =
          kind === 'mse'
            ? (scale * 2 * (s - t)) / H
            : (scale * ((s * product) / norm(squares) ** 2 - t)) / (norm(squares) * norm(others));
      }
    });
    return [{ shape: from!.shape, data }];
  },

  kernel(context) {
    const [from, to, weights, g] = context.inputs as [Operand, Operand, Operand, Operand];
    const { kind } = context.attributes;
    const { H, width, element, columns } = rowShape(from);
    if (kind === 'mse') {
      const grid = flatGrid(from.size / width);
      return [
        {
          label: `hidden-loss-gradient ${from.size / H}x${H}`,
          bindings: [
            { name: 's', operand: from, access: 'read', element },
            { name: 't', operand: to, access: 'read', element },
            { name: 'weights', operand: weights, access: 'read' },
            { name: 'g', operand: g, access: 'read' },
            { name: 'out', operand: context.outputs[0]!, access: 'write', element },
          ],
          code: `${grid.entry} {
  ${grid.index}
  out[i] = (g[0] * weights[i / ${columns}u] * ${f32(2 / H)}) * (s[i] - t[i]);
}`,
          workgroups: grid.workgroups,
        },
      ];
    }
    const names = ['squares', 'others', 'product'];
    return rowPasses(context, from, {
      label: 'hidden-loss-gradient',
      inputs: { s: from, t: to },
      scalars: { weights, g },
      out: context.outputs[0]!,
      partials: names,
      gather: (each) =>
        each(
          `squares += ${dot('s[i]', 's[i]', width)}; others += ${dot('t[i]', 't[i]', width)}; product += ${dot('s[i]', 't[i]', width)};`,
        ),
      join: (partial) => `${names
        .map((name) => `let ${name} = ${allLanes.map((lane) => partial(name, lane)).join(' + ')};`)
        .join('\n  ')}
  let both = ${NORM('squares')} * ${NORM('others')};
  let scale = g[0] * weights[i / ${columns}u] / both;
  let along = product / max(squares, ${f32(LEAST ** 2)});`,
      write: 'scale * (s[i] * along - t[i])',
    });
  },
};

const NORM = (squares: string): string => `sqrt(max(${squares}, ${f32(LEAST ** 2)}))`;
const norm = (squares: number): number => Math.max(Math.sqrt(squares), LEAST);

/** ‖s‖², ‖t‖², s·t and ‖s − t‖² of a row. */
function sumsOf(
  s: Float64Array,
  t: Float64Array,
  start: number,
  H: number,
): { squares: number; others: number; product: number; distance: number } {
  let [squares, others, product, distance] = [0, 0, 0, 0];
  for (let i = start; i < start + H; i++) {
    squares += s[i]! ** 2;
    others += t[i]! ** 2;
    product += s[i]! * t[i]!;
    distance += (s[i]! - t[i]!) ** 2;
  }
  return { squares, others, product, distance };
}

/**
 * @param student f32 [..., H], projected to the teacher's width where widths differ
 * @param teacher f32, the same shape
 * @param weights f32, one a row: 1 / counted tokens, 0 where a token does not count
 * @returns f32 [1]
 */
export function hiddenLoss(student: Value, teacher: Value, weights: Value, kind: 'mse' | 'cosine'): Value {
  return student.graph.apply(hiddenLossOp as OpDefinition, [student, teacher, weights], { kind })[0]!;
}
