/**
 * Reverse-mode differentiation as a graph transform: walks the nodes backwards and lets each op add the ops of its own
 * gradient to the same graph. What does not lead to an asked-for value is never differentiated, so frozen weights and
 * everything that only they needed cost nothing.
 */
import { add } from '../ops/add/add.ts';
import type { Graph } from './graph.ts';
import type { Node, Value } from './types.ts';

/**
 * d `loss` / d each of `wrt`.
 * @param loss f32[1]
 * @param seed the gradient of `loss` itself, f32[1]
 * @returns a gradient for every value of `wrt` that `loss` depends on
 */
export function gradients(graph: Graph, loss: Value, seed: Value, wrt: readonly Value[]): Map<Value, Value> {
  const nodes = graph.nodes.slice();
  const wanted = reachesAny(nodes, wrt);
  const gradientOf = new Map<Value, Value>([[loss, seed]]);

  for (const node of nodes.reverse()) {
    if (node.inputs.length === 0) continue;
    const outputGradients = node.outputs.map((value) => gradientOf.get(value));
    if (outputGradients.every((gradient) => gradient === undefined)) continue;
    const needed = node.inputs.map((value) => wanted.has(value));
    if (!needed.some(Boolean)) continue;
    if (!node.op.gradient) throw new RangeError(`'${node.op.name}' has no gradient, and one is needed through it`);
    const inputGradients = node.op.gradient(node, outputGradients, needed);
    node.inputs.forEach((value, i) => {
      const gradient = inputGradients[i];
      if (!gradient || !needed[i]) return;
      const sum = gradientOf.get(value);
      gradientOf.set(value, sum ? add(sum, gradient) : gradient);
    });
  }
  return new Map(wrt.flatMap((value) => (gradientOf.has(value) ? [[value, gradientOf.get(value)!]] : [])));
}

/** All values that depend on one of `wrt` (themselves included). */
function reachesAny(nodes: readonly Node[], wrt: readonly Value[]): Set<Value> {
  const reached = new Set(wrt);
  for (const node of nodes) {
    if (node.inputs.some((value) => reached.has(value))) node.outputs.forEach((value) => reached.add(value));
  }
  return reached;
}
