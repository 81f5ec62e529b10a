/**
 * Reverse-mode differentiation as a graph transform: walks the nodes backwards and lets each op add the ops of its own
 * gradient to the same graph. What does not lead to an asked-for value is never differentiated, so frozen weights and
 * everything that only they needed cost nothing.
 *
 * With `recompute`, the backward pass of a block (a layer) reads nothing that the forward pass computed inside it: the
 * block is built a second time from its inputs, just before its gradients, and they read that (Chen et al. 2016, "Training
 * deep nets with sublinear memory cost"). So one input a block lives through the step, and the insides of one block at a
 * time. The same kernels run on the same numbers, dropout included (Philox of seed and place): the bits are the same.
 *
 * With `fp16`, what the backward pass reads of the forward pass waits for it in 16 bits (Micikevicius et al. 2018, "Mixed
 * precision training", arXiv 1710.03740): activations, and the gradient that a fused loss made in the forward pass. The
 * forward pass itself reads f32. Small gradients vanish in 16 bits unless the loss is scaled (train/loss-scaler.ts).
 */
import { add } from '../ops/add/add.ts';
import { pack } from '../ops/pack/pack.ts';
import { unpack } from '../ops/unpack/unpack.ts';
import type { Block, Graph } from './graph.ts';
import type { Node, Value } from './types.ts';

/**
 * d `loss` / d each of `wrt`.
 * @param loss f32[1]
 * @param seed the gradient of `loss` itself, f32[1]
 * @param options.recompute compute the blocks' insides again instead of keeping them
 * @param options.fp16 keep in 16 bits what the backward pass needs of what depends on an input
 * @returns a gradient for every value of `wrt` that `loss` depends on
 */
export function gradients(
  graph: Graph,
  loss: Value,
  seed: Value,
  wrt: readonly Value[],
  options: { readonly recompute?: boolean; readonly fp16?: boolean } = {},
): Map<Value, Value> {
  const nodes = graph.nodes.slice();
  graph.backwardStart ??= nodes.length;
  const wanted = reachesAny(nodes, wrt);
  const kept = options.fp16 ? new InHalves(graph, nodes) : undefined;
  const computed = options.recompute ? recomputation(graph, kept) : (node: Node) => kept?.node(node) ?? node;
  const gradientOf = new Map<Value, Value>([[loss, seed]]);

  for (const node of nodes.reverse()) {
    if (node.inputs.length === 0) continue;
    const outputGradients = node.outputs.map((value) => gradientOf.get(value));
    if (outputGradients.every((gradient) => gradient === undefined)) continue;
    const needed = node.inputs.map((value) => wanted.has(value));
    if (!needed.some(Boolean)) continue;
    if (!node.op.gradient) throw new RangeError(`'${node.op.name}' has no gradient, and one is needed through it`);
    const inputGradients = node.op.gradient(computed(node), outputGradients, needed);
    node.inputs.forEach((value, i) => {
      const found = inputGradients[i];
      if (!found || !needed[i]) return;
      const gradient = kept ? kept.gradient(found, value) : found;
      const sum = gradientOf.get(value);
      gradientOf.set(value, sum ? add(sum, gradient) : gradient);
    });
  }
  return new Map(wrt.flatMap((value) => (gradientOf.has(value) ? [[value, gradientOf.get(value)!]] : [])));
}

/** Activations as the backward pass sees them: in 16 bits. Sources, and what is made of weights alone, stay as they are. */
class InHalves {
  private readonly activations: ReadonlySet<Value>;
  private readonly halves = new Map<Value, Value>();

  constructor(
    private readonly graph: Graph,
    nodes: readonly Node[],
  ) {
    const inputs = [...graph.sources.values()].filter(({ kind }) => kind === 'input').map(({ value }) => value);
    this.activations = reachesAny(nodes, inputs);
  }

  /** A node with its activations in halves; what nobody reads of them is never made. */
  node(node: Node): Node {
    const half = (value: Value): Value => this.half(value);
    return { ...node, inputs: node.inputs.map(half), outputs: node.outputs.map(half) };
  }

  half(value: Value): Value {
    const known = this.halves.get(value);
    if (known) return known;
    const stays =
      value.type.dtype !== 'f32' ||
      !this.activations.has(value) ||
      this.graph.sourceOf(value) !== undefined ||
      value.node.op.exact?.includes(value.index);
    if (stays) return value;
    const half = pack(value);
    this.halves.set(value, half);
    return half;
  }

  /** A gradient made in the forward pass waits in halves where it is an activation's; a weight's is folded at once. */
  gradient(found: Value, of: Value): Value {
    return this.isHalf(found) && !this.activations.has(of) ? found.node.inputs[0]! : found;
  }

  private isHalf(value: Value): boolean {
    return this.halves.get(value.node.inputs[0]!) === value; // a source has no inputs
  }
}

/**
 * Gives a node of a block its copy, and builds the whole block's when the first is asked for; other nodes as they are. With
 * `kept`, a block is built again from its input in halves, and its insides, which live for a moment only, are f32.
 */
function recomputation(graph: Graph, kept: InHalves | undefined): (node: Node) => Node {
  const blockOf = new Map<Node, Block>();
  for (const block of graph.blocks) {
    for (const node of graph.nodes.slice(block.start, block.end)) blockOf.set(node, block);
  }
  const copies = new Map<Node, Node>();
  const build = ({ start, end }: Block): void => {
    const entered = new Map<Value, Value>();
    const enter = (value: Value): Value => {
      const half = kept?.half(value) ?? value;
      if (half === value) return value;
      if (!entered.has(value)) entered.set(value, unpack(half));
      return entered.get(value)!;
    };
    const copyOf = (value: Value): Value => copies.get(value.node)?.outputs[value.index] ?? enter(value);
    const first = graph.nodes.length;
    for (const node of graph.nodes.slice(start, end)) {
      if (node.inputs.length === 0) continue;
      const [output] = graph.apply(node.op, node.inputs.map(copyOf), node.attributes);
      copies.set(node, output!.node);
    }
    graph.recomputed.push({ start: first, end: graph.nodes.length });
  };
  return (node) => {
    const block = blockOf.get(node);
    if (!block) return kept?.node(node) ?? node;
    if (!copies.has(node)) build(block);
    return copies.get(node)!;
  };
}

/** All values that depend on one of `wrt` (themselves included). */
function reachesAny(nodes: readonly Node[], wrt: readonly Value[]): Set<Value> {
  const reached = new Set(wrt);
  for (const node of nodes) {
    if (node.inputs.some((value) => reached.has(value))) node.outputs.forEach((value) => reached.add(value));
  }
  return reached;
}
