/**
 * 1 / ‖row of (w + scaling · delta)‖ for each output of a linear layer: what DoRA divides a merged weight by (Liu et al.
 * 2024, DoRA §4.3, eq. 11). The norm is taken as a constant there: no gradient goes through it. Rows are w's, [out, in], or
 * its columns where the weight lies [in, out].
 *
 * A row of zeros gives 1e15 instead of infinity, so that what is multiplied by it stays zero.
 *
 * Weights larger than a binding are gone through window by window. Windows begin at multiples of 64 rows, so a lane that
 * adds up every sixteenth row goes on with the same ones.
 */
import {
  bytesOf,
  sameShape,
  showType,
  sizeOf,
  type Dispatch,
  type OpDefinition,
  type Value,
} from '../../graph/types.ts';
import { commonWindows, locate } from '../../graph/windows.ts';
import { f32, flatGrid } from '../wgsl.ts';

type InverseNormsAttributes = { scaling: number; columns: boolean };

/** Threads that share a row. */
const LANES = 16;
const LEAST = 1e-30;

export const inverseNormsOp: OpDefinition<InverseNormsAttributes> = {
  name: 'inverse-norms',

  infer([w, delta], { columns }) {
    if (w!.shape.length !== 2 || !sameShape(w!.shape, delta!.shape)) {
      throw new RangeError(`inverseNorms: ${showType(w!)} and ${showType(delta!)}`);
    }
    return [{ shape: [w!.shape[columns ? 1 : 0]!], dtype: 'f32' }];
  },

  cost: ([w, delta]) => ({ flops: 4 * sizeOf(w!.shape), bytes: bytesOf(w!) + bytesOf(delta!) }),

  gradient: () => [undefined, undefined],

  reference([w, delta], { scaling, columns }, [out]) {
    const [rows, width] = w!.shape as [number, number];
    const squares = new Float64Array(columns ? width : rows);
    w!.data.forEach((value, i) => {
      squares[columns ? i % width : Math.floor(i / width)]! += (value + scaling * delta!.data[i]!) ** 2;
    });
    return [{ shape: out!.shape as number[], data: squares.map((square) => 1 / Math.sqrt(Math.max(square, LEAST))) }];
  },

  kernel({ inputs: [w, delta], outputs: [out], attributes: { scaling, columns }, scratch }) {
    const outputs = out!.size;
    const inputs = w!.size / outputs;
    const squares = scratch([LANES, outputs]);
    const joined = flatGrid(outputs);
    const windows = commonWindows(w!.shape[0]!, [
      { operand: w!, first: 0 },
      { operand: delta!, first: 0 },
    ]);
    return [
      ...windows.map(({ start, rows }): Dispatch => {
        const [weight, change] = [locate(w!, start), locate(delta!, start)];
        const length = rows * w!.shape[1]!;
        const lanes = flatGrid((columns ? outputs : rows) * LANES);
        // neighbouring threads read neighbouring numbers
        const index = columns
          ? `let output = i % ${outputs}u; let lane = i / ${outputs}u;`
          : `let row = i / ${LANES}u; let lane = i % ${LANES}u; let output = row + ${start}u;`;
        const at = columns ? `c * ${outputs}u + output` : `row * ${inputs}u + c`;
        const sum = `squares[lane * ${outputs}u + output]`;
        return {
          label: `inverse-norms sums ${outputs}x${inputs}`,
          bindings: [
            { name: 'w', operand: weight.operand, access: 'read', offset: weight.offset, length },
            { name: 'delta', operand: change.operand, access: 'read', offset: change.offset, length },
            { name: 'squares', operand: squares, access: 'write' },
          ],
          code: `${lanes.entry} {
  ${lanes.index}
  ${index}
  var sum = ${columns && start > 0 ? sum : '0.0'};
  for (var c = lane; c < ${columns ? rows : inputs}u; c += ${LANES}u) {
    let value = w[${at}] + ${f32(scaling)} * delta[${at}];
    sum += value * value;
  }
  ${sum} = sum;
}`,
          workgroups: lanes.workgroups,
        };
      }),
      {
        label: `inverse-norms ${outputs}`,
        bindings: [
          { name: 'squares', operand: squares, access: 'read' },
          { name: 'out', operand: out!, access: 'write' },
        ],
        code: `${joined.entry} {
  ${joined.index}
  var sum = 0.0;
  ${Array.from({ length: LANES }, (_, l) => `sum += squares[i + ${l * outputs}u];`).join(' ')}
  out[i] = inverseSqrt(max(sum, ${f32(LEAST)}));
}`,
        workgroups: joined.workgroups,
      },
    ];
  },
};

/** @param options.columns the outputs are the columns of w */
export function inverseNorms(w: Value, delta: Value, options: { scaling: number; columns: boolean }): Value {
  return w.graph.apply(inverseNormsOp as OpDefinition, [w, delta], { ...options })[0]!;
}
