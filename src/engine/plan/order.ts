/**
 * Which nodes run, and when.
 *
 * A node runs when an output of the graph needs it or it changes a state. The order is the one they were built in, but
 * nodes that only fold a result into a state (gradient accumulation, the optimiser) run as soon as their inputs exist, so
 * that a weight's gradient does not wait in memory for the end of the backward pass; and so do those whose op is `early`.
 */
import type { Graph } from '../graph/graph.ts';
import type { Node, Value } from '../graph/types.ts';

export function order(graph: Graph): Node[] {
  const readers = new Map<Value, Node[]>();
  for (const node of graph.nodes)
    for (const value of node.inputs) readers.set(value, [...(readers.get(value) ?? []), node]);

  const needed = new Set<Node>();
  const visit = (start: Node): void => {
    const stack = [start];
    while (stack.length > 0) {
      const node = stack.pop()!;
      if (needed.has(node) || node.inputs.length === 0) continue;
      needed.add(node);
      for (const value of node.inputs) stack.push(value.node);
    }
  };
  for (const value of graph.outputs.values()) visit(value.node);
  for (const node of graph.nodes) if (changesState(graph, node)) visit(node);

  const outputs = new Set(graph.outputs.values());
  const isSink = (node: Node): boolean =>
    changesState(graph, node) &&
    node.outputs.every((value) => !readers.has(value) && !outputs.has(value)) &&
    stateInputs(graph, node).every((value) => readers.get(value)!.length === 1);

  const isEarly = (node: Node): boolean => node.op.early === true || isSink(node);
  const placed = graph.nodes.filter((node) => needed.has(node) && !isEarly(node));
  const position = new Map(placed.map((node, i) => [node, i]));
  const earlyAfter = new Map<number, Node[]>();
  for (const node of graph.nodes) {
    if (!needed.has(node) || !isEarly(node)) continue;
    const latest = Math.max(-1, ...node.inputs.map((value) => position.get(value.node) ?? -1));
    position.set(node, latest);
    earlyAfter.set(latest, [...(earlyAfter.get(latest) ?? []), node]);
  }
  const ordered = [...(earlyAfter.get(-1) ?? []), ...placed.flatMap((node, i) => [node, ...(earlyAfter.get(i) ?? [])])];
  refuseStaleReads(ordered);
  return ordered;
}

function stateInputs(graph: Graph, node: Node): Value[] {
  return Object.values(node.op.inPlace ?? {})
    .map((input) => node.inputs[input]!)
    .filter((value) => graph.sourceOf(value)?.kind === 'state');
}

function changesState(graph: Graph, node: Node): boolean {
  return stateInputs(graph, node).length > 0;
}

/** Whoever reads a state's old value after an op has overwritten it would get the new one. */
function refuseStaleReads(ordered: readonly Node[]): void {
  const overwritten = new Set<Value>();
  for (const node of ordered) {
    for (const value of node.inputs) {
      if (overwritten.has(value)) throw new RangeError(`'${node.op.name}' reads a state after it was overwritten`);
    }
    for (const input of Object.values(node.op.inPlace ?? {})) overwritten.add(node.inputs[input]!);
  }
}
