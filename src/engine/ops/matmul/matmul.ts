/**
 * Matrix product. `a` is [..., M, K] with its leading axes taken as rows; `b` is [K, N], or [N, K] with transB (how linear
 * layers keep their weight). With transA the product runs over all rows of both: aᵀ b, the gradient of a weight.
 *
 *   y = x Wᵀ    matmul(x, w, { transB: true })
 *   dx = g W    matmul(g, w)
 *   dW = gᵀ x   matmul(g, x, { transA: true })
 */
import {
  bytesOf,
  sizeOf,
  type Dim,
  type OpDefinition,
  type Shape,
  type TensorType,
  type Value,
} from '../../graph/types.ts';
import { matmulDispatches } from './windows.ts';

type MatmulAttributes = { readonly transA?: boolean; readonly transB?: boolean };

export const matmulOp: OpDefinition<MatmulAttributes> = {
  name: 'matmul',
  packed: [1],

  infer([a, b], { transA, transB }) {
    const inner = transA ? rowsOf(a!.shape) : last(a!.shape);
    const innerB = transB ? last(b!.shape) : rowsOf(b!.shape);
    if (inner !== innerB) {
      throw new RangeError(
        `matmul: [${a!.shape}]${transA ? 'ᵀ' : ''} by [${b!.shape}]${transB ? 'ᵀ' : ''}: ${inner} is not ${innerB}`,
      );
    }
    const N = transB ? rowsOf(b!.shape) : last(b!.shape);
    const rows = transA ? [last(a!.shape)] : a!.shape.slice(0, -1);
    return [{ shape: [...rows, N], dtype: 'f32' }];
  },

  cost([a, b], [out], { transA, transB }) {
    const { M, N, K } = sizes(a!, b!, { transA, transB });
    return { flops: 2 * M * N * K, bytes: bytesOf(a!) + bytesOf(b!) + bytesOf(out!) };
  },

  gradient(node, [g], needed) {
    const [a, b] = node.inputs as [Value, Value];
    const { transA = false, transB = false } = node.attributes as MatmulAttributes;
    const ofA = transA ? matmul(b, g!, { transA: transB, transB: true }) : matmul(g!, b, { transB: !transB });
    if (!needed[1]) return [ofA, undefined];
    const ofB = transB ? matmul(g!, a, { transA: true, transB: transA }) : matmul(a, g!, { transA: !transA });
    return [needed[0] ? ofA : undefined, ofB];
  },

  reference([a, b], { transA, transB }, [out]) {
    const { M, N, K } = sizes({ shape: a!.shape, dtype: 'f32' }, { shape: b!.shape, dtype: 'f32' }, { transA, transB });
    const data = new Float64Array(M * N);
    for (let m = 0; m < M; m++)
      for (let k = 0; k < K; k++) {
        const x = a!.data[transA ? k * M + m : m * K + k]!;
        for (let n = 0; n < N; n++) data[m * N + n]! += x * b!.data[transB ? n * K + k : k * N + n]!;
      }
    return [{ shape: out!.shape as number[], data }];
  },

  kernel({ inputs: [a, b], outputs: [out], attributes, limits }) {
    const { M, N, K } = sizes(a!.type, b!.type, attributes);
    return matmulDispatches({ a: a!, b: b!, out: out!, M, N, K, ...attributes, limits });
  },
};

/**
 * The product added to what is there already: inputs a, b and `onto`, of the product's shape or that of its last axes. What a
 * plan makes of a matmul and an add (plan/fuse.ts): the sums begin with `onto` instead of 0, which saves writing and reading the
 * product. In graphs it is never met.
 */
export const matmulOntoOp: OpDefinition<MatmulAttributes> = {
  name: 'matmul onto',
  packed: [1],
  infer: ([a, b], attributes) => matmulOp.infer([a!, b!], attributes),
  cost([a, b, onto], outputs, attributes) {
    const { flops, bytes } = matmulOp.cost([a!, b!], outputs, attributes);
    return { flops: flops + sizeOf(outputs[0]!.shape), bytes: bytes + bytesOf(onto!) };
  },
  kernel({ inputs: [a, b, onto], outputs: [out], attributes, limits }) {
    const { M, N, K } = sizes(a!.type, b!.type, attributes);
    return matmulDispatches({ a: a!, b: b!, onto: onto!, out: out!, M, N, K, ...attributes, limits });
  },
};

function sizes(
  a: TensorType,
  b: TensorType,
  { transA, transB }: MatmulAttributes,
): { M: number; N: number; K: number } {
  const [rowsA, columnsA] = [sizeOf(a.shape.slice(0, -1)), sizeOf(a.shape.slice(-1))];
  const N = transB ? sizeOf(b.shape.slice(0, -1)) : sizeOf(b.shape.slice(-1));
  return transA ? { M: columnsA, K: rowsA, N } : { M: rowsA, K: columnsA, N };
}

const last = (shape: Shape): Dim => shape[shape.length - 1]!;

/** Leading axes as one: their product, or its symbols joined where a size is not known. */
function rowsOf(shape: Shape): Dim {
  const lead = shape.slice(0, -1);
  if (lead.every((dim) => typeof dim === 'number')) return sizeOf(lead);
  return lead.length === 1 ? lead[0]! : lead.join('*');
}

export function matmul(a: Value, b: Value, options: MatmulAttributes = {}): Value {
  const { transA = false, transB = false } = options;
  return a.graph.apply(matmulOp as OpDefinition, [a, b], { transA, transB })[0]!;
}
