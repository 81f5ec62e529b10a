/**
 * What a backward pass must find of the forward pass: the floor under the memory of a step, whatever its kernels need besides.
 */
import type { Graph } from '../graph/graph.ts';
import { bytesOf, type Node, type Value } from '../graph/types.ts';
import { packOp } from '../ops/pack/pack.ts';

/**
 * Bytes of what the forward pass made and the backward pass still reads, and of what a block that is computed again made for
 * its own gradients; at the moment of the backward pass when they are most. 0 for a graph without one.
 * @param nodes in the order they run
 */
export function savedBytes(graph: Graph, nodes: readonly Node[]): number {
  const start = graph.backwardStart;
  if (start === undefined) return 0;
  const again = new Set(graph.recomputed.flatMap((block) => graph.nodes.slice(block.start, block.end)));
  const ids = new Set([...again].map(({ id }) => id));
  // a fused node has the id of the one whose result it makes
  const part = ({ id, op }: Node): 'forward' | 'again' | 'backward' =>
    id < start || op === packOp ? 'forward' : ids.has(id) ? 'again' : 'backward';

  const made = new Map<Value, { readonly when: number; readonly by: ReturnType<typeof part> }>();
  const lastRead = new Map<Value, number>();
  nodes.forEach((node, when) => {
    const by = part(node);
    for (const value of by === 'forward' ? [] : node.inputs)
      if (made.has(value) && made.get(value)!.by !== by) lastRead.set(value, when);
    if (by !== 'backward' && !node.op.inPlace) for (const value of node.outputs) made.set(value, { when, by });
  });

  const backward = nodes.findIndex((node) => part(node) !== 'forward');
  const change = new Float64Array(nodes.length + 1);
  for (const [value, last] of lastRead) {
    const bytes = bytesOf(value.type);
    change[Math.max(made.get(value)!.when, backward)]! += bytes;
    change[last + 1]! -= bytes;
  }
  let live = 0;
  let most = 0;
  for (const difference of change) most = Math.max(most, (live += difference));
  return most;
}
