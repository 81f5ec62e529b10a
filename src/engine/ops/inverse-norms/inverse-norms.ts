/**
 * 1 / ‖row of (w + scaling · delta)‖ for each output of a linear layer: what DoRA divides a merged weight by (Liu et al.
 * 2024, DoRA §4.3, eq. 11). The norm is taken as a constant there: no gradient goes through it. Rows are w's, [out, in], or
 * its columns where the weight lies [in, out].
 *
 * A row of zeros gives 1e15 instead of infinity, so that what is multiplied by it stays zero.
 */
import { bytesOf, sameShape, showType, sizeOf, type OpDefinition, type Value } from '../../graph/types.ts';
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
    const lanes = flatGrid(outputs * LANES);
    const joined = flatGrid(outputs);
    // neighbouring threads read neighbouring numbers
    const place = columns ? `i % ${outputs}u` : `i / ${LANES}u`;
    const lane = columns ? `i / ${outputs}u` : `i % ${LANES}u`;
    const at = columns ? `c * ${outputs}u + row` : `row * ${inputs}u + c`;
    return [
      {
        label: `inverse-norms sums ${outputs}x${inputs}`,
        bindings: [
          { name: 'w', operand: w!, access: 'read' },
          { name: 'delta', operand: delta!, access: 'read' },
          { name: 'squares', operand: squares, access: 'write' },
        ],
        code: `${lanes.entry} {
  ${lanes.index}
  let row = ${place};
  let lane = ${lane};
  var sum = 0.0;
  for (var c = lane; c < ${inputs}u; c += ${LANES}u) {
    let value = w[${at}] + ${f32(scaling)} * delta[${at}];
    sum += value * value;
  }
  squares[lane * ${outputs}u + row] = sum;
}`,
        workgroups: lanes.workgroups,
      },
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
