/**
 * Reverse-mode differentiation as a graph transform: walks the nodes backwards and lets each op add the ops of its own
 * gradient to the same graph. What does not lead to an asked-for value is never differentiated, so frozen weights and
 * everything that only they needed cost nothing.
 *
 * With `recompute`, the backward pass of a block (a layer) reads nothing that the forward pass computed inside it: the
 * block is built a second time from its inputs, just before its gradients, and they read that (Chen et al. 2016, "Training
 * deep nets with sublinear memory cost"). So one input a block lives through the step, and the insides of one block at a
 * time. The same kernels run on the same numbers, dropout included (Philox of seed and place): the bits are the same.
 */
import { add } from '../ops/add/add.ts';
import type { Block, Graph } from './graph.ts';
import type { Node, Value } from './types.ts';

/**
 * d `loss` / d each of `wrt`.
 * @param loss f32[1]
 * @param seed the gradient of `loss` itself, f32[1]
 * @param options.recompute compute the blocks' insides again instead of keeping them
 * @returns a gradient for every value of `wrt` that `loss` depends on
 */
export function gradients(
  graph: Graph,
  loss: Value,
  seed: Value,
  wrt: readonly Value[],
  options: { readonly recompute?: boolean } = {},
): Map<Value, Value> {
  const nodes = graph.nodes.slice();
  const wanted = reachesAny(nodes, wrt);
  const computed = options.recompute ? recomputation(graph) : (node: Node) => node;
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
      const gradient = inputGradients[i];
      if (!gradient || !needed[i]) return;
      const sum = gradientOf.get(value);
      gradientOf.set(value, sum ? add(sum, gradient) : gradient);
    });
  }
  return new Map(wrt.flatMap((value) => (gradientOf.has(value) ? [[value, gradientOf.get(value)!]] : [])));
}

/** Gives a node of a block its copy, and builds the whole block's when the first is asked for; other nodes as they are. */
function recomputation(graph: Graph): (node: Node) => Node {
  const blockOf = new Map<Node, Block>();
  for (const block of graph.blocks) {
    for (const node of graph.nodes.slice(block.start, block.end)) blockOf.set(node, block);
  }
  const copies = new Map<Node, Node>();
  const copyOf = (value: Value): Value => copies.get(value.node)?.outputs[value.index] ?? value;
  const build = ({ start, end }: Block): void => {
    for (const node of graph.nodes.slice(start, end)) {
      if (node.inputs.length === 0) continue;
      const [first] = graph.apply(node.op, node.inputs.map(copyOf), node.attributes);
      copies.set(node, first!.node);
    }
  };
  return (node) => {
    const block = blockOf.get(node);
    if (block && !copies.has(node)) build(block);
    return copies.get(node) ?? node;
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
