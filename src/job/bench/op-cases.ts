/**
 * Every op at the sizes that a training step of a small language model gives it, with its gradients where it has some. Matmul and
 * attention at their many shapes are suites of their own.
 */
import { gradients } from '../../engine/graph/autodiff.ts';
import type { Graph } from '../../engine/graph/graph.ts';
import { type DType, type Shape, type Value } from '../../engine/graph/types.ts';
import * as ops from '../../engine/ops/index.ts';
import { embeddingGradient } from '../../engine/ops/embedding/embedding.ts';
import { pack } from '../../engine/ops/pack/pack.ts';
import { rowDots } from '../../engine/ops/scale-rows/scale-rows.ts';
import { unpack } from '../../engine/ops/unpack/unpack.ts';

export interface OpSizes {
  /** T, of one row. */
  readonly tokens: number;
  readonly hidden_size: number;
  readonly intermediate_size: number;
  readonly vocab_size: number;
  readonly heads: number;
  readonly kv_heads: number;
  readonly head_dim: number;
  /** Entries of a cached teacher a position. */
  readonly k: number;
}

/** Adds its nodes to an empty graph; what it returns is what has to be computed. States need no output. */
export type OpCase = (graph: Graph) => readonly Value[];

/** By what is measured. */
export function opCases(sizes: OpSizes): Readonly<Record<string, OpCase>> {
  const { tokens: T, hidden_size: H, intermediate_size: I, vocab_size: V, heads, kv_heads, head_dim, k } = sizes;
  const x = (graph: Graph): Value => graph.input('x', [1, T, H]);
  const ids = (graph: Graph): Value => graph.constant('ids', [1, T], spread(T, V));
  /** One tensor in, one out, and back. */
  const through =
    (op: (x: Value, graph: Graph) => Value, width = H): OpCase =>
    (graph) => {
      const from = graph.input('x', [1, T, width]);
      return forwardAndBack(graph, op(from, graph), [from]);
    };
  const gated =
    (op: (gate: Value, up: Value) => Value): OpCase =>
    (graph) => {
      const [gate, up] = [graph.input('gate', [1, T, I]), graph.input('up', [1, T, I])];
      return forwardAndBack(graph, op(gate, up), [gate, up]);
    };
  const update =
    (
      states: Readonly<Record<string, { readonly shape: Shape; readonly dtype?: DType }>>,
      op: Updater,
      shape: Shape = [I, H],
    ): OpCase =>
    (graph) => {
      const at = Object.entries(states).map(([name, { shape, dtype }]) => graph.state(name, shape, dtype));
      const [grad, hyper, norm] = [graph.input('grad', shape), graph.input('hyper', [8]), graph.input('norm', [1])];
      op(graph.state('parameter', shape), at, grad, hyper, norm);
      return [];
    };
  const head =
    (attributes: Partial<ops.LinearLossAttributes>): OpCase =>
    (graph) =>
      linearLoss(graph, sizes, attributes);
  const decay = { decay: true };

  return {
    embedding(graph) {
      const table = graph.input('table', [V, H]);
      return forwardAndBack(graph, ops.embedding(table, ids(graph)), [table]);
    },
    'embedding shared with a head'(graph) {
      // scaled, so that it is a temporary, as what the head gives is
      const ofHead = ops.scale(graph.input('head', [V, H]), 2);
      return [ops.add(ofHead, embeddingGradient(ids(graph), graph.input('g', [1, T, H]), V))];
    },
    rmsnorm(graph) {
      const [from, weight] = [graph.input('x', [1, T, H]), graph.input('weight', [H])];
      return forwardAndBack(graph, ops.rmsnorm(from, weight, { eps: 1e-5 }), [from, weight]);
    },
    layernorm(graph) {
      const [from, weight, bias] = [graph.input('x', [1, T, H]), graph.input('weight', [H]), graph.input('bias', [H])];
      return forwardAndBack(graph, ops.layernorm(from, weight, bias, { eps: 1e-5 }), [from, weight, bias]);
    },
    rotary: through((from, graph) => {
      const table = (name: string): Value =>
        graph.constant(name, [T, head_dim / 2], new Float32Array((T * head_dim) / 2));
      return ops.rotary(from, table('cos'), table('sin'), ops.positions(ids(graph)), { head_dim });
    }, heads * head_dim),
    'attention, one token beside a cache'(graph) {
      const segments = (name: string, length: number): Value =>
        graph.constant(name, [1, length], new Int32Array(length).fill(1));
      const past = graph.constant('past', [1], Int32Array.of(T - 1));
      const width = kv_heads * head_dim;
      const [keys, values] = ['k', 'v'].map((name) =>
        ops.kvAppend(graph.state(`cache.${name}`, [1, T, width]), graph.input(name, [1, 1, width]), past),
      ) as [Value, Value];
      const q = graph.input('q', [1, 1, heads * head_dim]);
      const shape = { heads, kv_heads, head_dim, scale: head_dim ** -0.5, causal: true };
      return [ops.attention(q, keys, values, segments('query', 1), segments('keys', T), shape, past)[0]];
    },
    siluMul: gated(ops.siluMul),
    'gelu (tanh)': through((from) => ops.activation(from, 'gelu_pytorch_tanh'), I),
    'gelu (exact)': through((from) => ops.activation(from, 'gelu'), I),
    mul: gated(ops.mul),
    add: (graph) => [ops.add(x(graph), graph.input('y', [1, T, H]))],
    'add of a bias': (graph) => {
      const bias = graph.input('bias', [H]);
      return forwardAndBack(graph, ops.add(x(graph), bias), [bias]);
    },
    scale: (graph) => [ops.scale(x(graph), 0.5)],
    scaleBy: (graph) => [ops.scaleBy(x(graph), graph.input('factor', [1]))],
    addScaled: (graph) => [ops.addScaled(x(graph), graph.input('y', [1, T, H]), 0.5)],
    softcap: through((from) => ops.softcap(from, 30)),
    dropout: through((from, graph) => ops.dropout(from, graph.input('seed', [2], 'i32'), { p: 0.1, site: 0 })),
    split: through((from) => ops.concat(ops.split(from, [H / 2, H / 2]).toReversed())),
    lastRow: (graph) => [ops.lastRow(x(graph))],
    'replaceRows (added tokens)'(graph) {
      const [table, rows] = [graph.input('table', [V, H]), graph.input('rows', [T, H])];
      return forwardAndBack(graph, ops.replaceRows(table, rows, V - T), [rows]);
    },
    sumLeading: (graph) => [ops.sumLeading(x(graph), 1)],
    sumAll: (graph) => forwardAndBack(graph, ops.sumAll(x(graph)), [x(graph)]),
    sumSquares: (graph) => [ops.sumSquares(graph.input('gradients', [I, H]))],
    'inverseNorms (DoRA)'(graph) {
      const [w, delta] = [graph.input('w', [I, H]), graph.input('delta', [I, H])];
      return [ops.inverseNorms(w, delta, { scaling: 2, columns: false })];
    },
    'scaleRows (DoRA)'(graph) {
      const [a, s] = [graph.input('a', [I, H]), graph.input('s', [I])];
      return forwardAndBack(graph, ops.scaleRows(a, s), [a, s]);
    },
    'rowDots (DoRA)': (graph) => [rowDots(graph.input('a', [I, H]), graph.input('b', [I, H]))],
    'pack (f16)': (graph) => [unpack(pack(ops.scale(x(graph), 1)))],
    'hiddenLoss, mse': (graph) => hiddenLoss(graph, [1, T, H], 'mse'),
    'hiddenLoss, cosine': (graph) => hiddenLoss(graph, [1, T, H], 'cosine'),
    'linearLoss, cross entropy': head({ objective: 'none' }),
    [`linearLoss, forward KL, k ${k}`]: head({ objective: 'forward_kl', alpha: 0.5, temperature: 2 }),
    [`linearLoss, reverse KL, k ${k}`]: head({ objective: 'reverse_kl', alpha: 0.5, temperature: 2 }),
    [`linearLoss, JSD, k ${k}`]: head({ objective: 'jsd', alpha: 0.5, temperature: 2 }),
    [`linearLoss, skew KL, k ${k}`]: head({ objective: 'skew_kl', alpha: 0.5, temperature: 2 }),
    'linearLoss, cross entropy, head trained': head({ objective: 'none', weightGradient: true }),
    linearTopk(graph) {
      const {
        ids: found,
        logits,
        log_z,
      } = ops.linearTopk(x(graph), graph.input('head', [V, H]), {
        k,
        temperatures: [1],
      });
      return [found, logits, log_z];
    },
    linearSample(graph) {
      const points = graph.constant(
        'points',
        [1, T, k],
        Float32Array.from({ length: T * k }, (_, i) => (i % k) / k),
      );
      const {
        ids: found,
        logits,
        log_z,
      } = ops.linearSample(x(graph), graph.input('head', [V, H]), points, {
        temperatures: [1],
      });
      return [found, logits, log_z];
    },
    accumulate(graph) {
      ops.accumulate(graph.state('sum', [I, H]), graph.input('grad', [I, H]), graph.input('factors', [2]));
      return [];
    },
    adamw: update({ m: { shape: [I, H] }, v: { shape: [I, H] } }, (parameter, [m, v], ...rest) =>
      ops.adamw(parameter, m!, v!, ...rest, decay),
    ),
    adamw8bit: update(ops.statesOf8bit(I * H), (parameter, [m, v, absmax], ...rest) =>
      ops.adamw8bit(parameter, [m!, v!, absmax!], ...rest, decay),
    ),
    lion: update({ m: { shape: [I, H] } }, (parameter, [m], ...rest) => ops.lion(parameter, m!, ...rest, decay)),
    'sgd, momentum': update({ m: { shape: [I, H] } }, (parameter, [m], ...rest) =>
      ops.sgd(parameter, m, ...rest, decay),
    ),
    adafactor: update({ row: { shape: [I] }, col: { shape: [H] } }, (parameter, [row, col], ...rest) =>
      ops.adafactor(parameter, [row!, col!], ...rest, decay),
    ),
    'adafactor, a vector': update({ v: { shape: [H] } }, (p, [v], ...rest) => ops.adafactor(p, [v!], ...rest, decay), [
      H,
    ]),
  };
}

type Updater = (parameter: Value, states: readonly Value[], grad: Value, hyper: Value, norm: Value) => unknown;

/** A result, and the gradients that it gives back. */
function forwardAndBack(graph: Graph, out: Value, wrt: readonly Value[]): Value[] {
  const found = gradients(graph, out, graph.input('g', out.type.shape), wrt);
  return [out, ...wrt.map((value) => found.get(value)!)];
}

/** `count` numbers from 0 to below `end`, none beside its like. */
const spread = (count: number, end: number): Int32Array<ArrayBuffer> =>
  Int32Array.from({ length: count }, (_, i) => (i * 7919) % end);

function hiddenLoss(graph: Graph, shape: readonly number[], kind: 'mse' | 'cosine'): readonly Value[] {
  const student = graph.input('student', shape);
  const weights = graph.input('weights', shape.slice(0, -1));
  const loss = ops.hiddenLoss(student, graph.input('teacher', shape), weights, kind);
  return forwardAndBack(graph, loss, [student]);
}

/** The gradient for the hidden states is made in the forward pass; the head is frozen unless it is said otherwise. */
function linearLoss(
  graph: Graph,
  { tokens: T, hidden_size: H, vocab_size: V, k }: OpSizes,
  attributes: Partial<ops.LinearLossAttributes>,
): readonly Value[] {
  const [hidden, weight] = [graph.input('hidden', [1, T, H]), graph.input('head', [V, H])];
  const all: ops.LinearLossAttributes = {
    objective: 'none',
    temperature: 1,
    alpha: 0,
    tail: 'bucket',
    label_smoothing: 0,
    hiddenGradient: true,
    weightGradient: false,
    ...attributes,
  };
  const teacher = {
    ids: graph.constant('teacher.ids', [1, T, k], spread(T * k, V)),
    logits: graph.input('teacher.logits', [1, T, k]),
    log_z: graph.constant('teacher.log_z', [1, T], new Float32Array(T).fill(11)),
  };
  const targets = graph.constant('targets', [1, T], spread(T, V));
  const scale = graph.constant('scale', [1], Float32Array.of(1 / T));
  const { loss } = ops.linearLoss(hidden, weight, targets, scale, all, all.objective === 'none' ? undefined : teacher);
  const wrt = all.weightGradient ? [hidden, weight] : [hidden];
  return forwardAndBack(graph, loss, wrt);
}
