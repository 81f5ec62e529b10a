/**
 * Which nodes run, and when.
 *
 * A node runs when an output of the graph needs it or it changes what lives on the device, a state or a weight. The order is the
 * one they were built in, but for `eager` nodes, which run as soon as they can. So a weight's gradient does not wait in memory for
 * the end of the backward pass, and an optimiser overwrites a weight once nobody reads the old one any more.
 *
 *   order   needed nodes as built, those that only overwrite last: products can join their adds across them (fuse.ts)
 *   hoist   eager nodes brought forward
 */
import type { Graph } from '../graph/graph.ts';
import type { Node, Value } from '../graph/types.ts';

export function order(graph: Graph): Node[] {
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
  for (const node of graph.nodes) if (overwrites(graph, node).length > 0) visit(node);

  const nodes = graph.nodes.filter((node) => needed.has(node));
  const folds = foldsOf(graph, nodes, readersOf(nodes));
  return [...nodes.filter((node) => !folds.has(node)), ...folds];
}

/**
 * Eager are nodes that only fold a result into what lives on the device (gradient accumulation, the optimiser), those whose op is
 * `early`, and an elementwise step between one of them and what it reads.
 * @param nodes in an order in which they can run
 * @throws RangeError where one reads what another has overwritten before
 */
export function hoist(graph: Graph, nodes: readonly Node[]): Node[] {
  const readers = readersOf(nodes);
  const folds = foldsOf(graph, nodes, readers);
  const outputs = new Set(graph.outputs.values());
  const eager = new Set(nodes.filter((node) => node.op.early === true || folds.has(node)));
  for (const node of nodes.toReversed()) {
    const read = node.outputs.flatMap((value) => readers.get(value) ?? []);
    const told = node.outputs.some((value) => outputs.has(value));
    if (node.op.elementwise && !told && read.length > 0 && read.every((reader) => eager.has(reader))) eager.add(node);
  }

  const placed = nodes.filter((node) => !eager.has(node));
  const position = new Map(placed.map((node, i) => [node, i]));
  const made = new Map(nodes.flatMap((node) => node.outputs.map((value) => [value, node] as const)));
  const after = new Map<number, Node[]>();
  const place = (node: Node): void => {
    const before = node.inputs.map((value) => made.get(value));
    if (folds.has(node)) before.push(...overwrites(graph, node).flatMap((value) => readers.get(value)!));
    const latest = Math.max(-1, ...before.map((one) => (one && one !== node ? (position.get(one) ?? -1) : -1)));
    position.set(node, latest);
    after.set(latest, [...(after.get(latest) ?? []), node]);
  };
  for (const node of nodes) if (eager.has(node) && !folds.has(node)) place(node);
  for (const node of folds) place(node);
  const ordered = [...(after.get(-1) ?? []), ...placed.flatMap((node, i) => [node, ...(after.get(i) ?? [])])];
  refuseStaleReads(ordered);
  return ordered;
}

function readersOf(nodes: readonly Node[]): Map<Value, Node[]> {
  const readers = new Map<Value, Node[]>();
  for (const node of nodes) for (const value of node.inputs) readers.set(value, [...(readers.get(value) ?? []), node]);
  return readers;
}

/** Nodes that overwrite, and whose results nobody reads: they can wait until all that reads the old content has run. */
function foldsOf(
  graph: Graph,
  nodes: readonly Node[],
  readers: ReadonlyMap<Value, readonly Node[]>,
): ReadonlySet<Node> {
  const outputs = new Set(graph.outputs.values());
  const folds = (node: Node): boolean => {
    const overwritten = overwrites(graph, node);
    return (
      overwritten.length > 0 &&
      node.outputs.every((value) => !readers.has(value) && !outputs.has(value)) &&
      overwritten.every((value) =>
        readers.get(value)!.every((other) => other === node || overwrites(graph, other).length === 0),
      )
    );
  };
  return new Set(nodes.filter(folds));
}

/** What a node overwrites of the tensors that outlive a run of the graph. */
function overwrites(graph: Graph, node: Node): Value[] {
  return Object.values(node.op.inPlace ?? {})
    .map((input) => node.inputs[input]!)
    .filter((value) => ['state', 'parameter'].includes(graph.sourceOf(value)?.kind ?? ''));
}

/** Whoever reads a tensor's old content after an op has overwritten it would get the new one. */
function refuseStaleReads(ordered: readonly Node[]): void {
  const overwritten = new Set<Value>();
  for (const node of ordered) {
    for (const value of node.inputs) {
      if (overwritten.has(value)) throw new RangeError(`'${node.op.name}' reads a tensor after it was overwritten`);
    }
    for (const input of Object.values(node.op.inPlace ?? {})) overwritten.add(node.inputs[input]!);
  }
}
