/**
 * Products that are added to something begin their sums with it: a matmul whose only reader is an add becomes one dispatch with
 * it (`matmulOntoOp`), and so does an embedding's gradient where a head shares the table. So join biases, residuals, a LoRA
 * pair's product and, in the backward pass, the gradients that several products give to one value. An add moves three numbers
 * for each that it makes; on a product's tile it moves one.
 *
 *   add(y, a·b)            ─▶  a·b onto y
 *   add(x, a·b onto y)     ─▶  a·b onto (y onto x), where y too is a product that only this reads and x exists by then
 *
 * An activation stays an op of its own: its gradient reads what it was given.
 */
import type { Graph } from '../graph/graph.ts';
import { concrete, sizeOf, type Node, type OpDefinition, type Value } from '../graph/types.ts';
import { addOp } from '../ops/add/add.ts';
import { embeddingGradientOntoOp, embeddingGradientOp } from '../ops/embedding/embedding.ts';
import { matmulOntoOp, matmulOp } from '../ops/matmul/matmul.ts';

/** What becomes of ops that can begin with something; it is the last input then. */
const ONTO = new Map<OpDefinition, OpDefinition>([
  [matmulOp, matmulOntoOp],
  [embeddingGradientOp, embeddingGradientOntoOp],
] as [OpDefinition, OpDefinition][]);
const BEGUN = new Set(ONTO.values());

/** @param nodes in the order they run; @returns as many or fewer, in that order */
export function fuse(graph: Graph, nodes: readonly Node[]): Node[] {
  const readers = new Map<Value, number>();
  for (const value of [...nodes.flatMap(({ inputs }) => inputs), ...graph.outputs.values()])
    readers.set(value, (readers.get(value) ?? 0) + 1);
  const position = new Map<Value, number>();
  nodes.forEach((node, i) => node.outputs.forEach((value) => position.set(value, i)));

  const fused: (Node | undefined)[] = [...nodes];
  /** The product that only one node reads, by its place; undefined where it is none. */
  const productAt = (value: Value): number | undefined => {
    const at = position.get(value);
    const op = at === undefined ? undefined : fused[at]?.op;
    return readers.get(value) === 1 && op && (ONTO.has(op) || BEGUN.has(op)) ? at : undefined;
  };
  /** Whether what a product reads is no longer there at a later place. */
  const overwritten = (at: number, later: number): boolean =>
    nodes
      .slice(at + 1, later)
      .some(({ op, inputs }) => Object.values(op.inPlace ?? {}).some((i) => fused[at]!.inputs.includes(inputs[i]!)));
  /** Whether the product at a place can begin with `value`, itself or what it begins with. */
  const begin = (at: number, value: Value): boolean => {
    const node = fused[at]!;
    if (BEGUN.has(node.op)) {
      const inner = productAt(node.inputs.at(-1)!);
      return inner !== undefined && begin(inner, value);
    }
    if ((position.get(value) ?? -1) >= at || !fits(node, value)) return false;
    fused[at] = { ...node, op: ONTO.get(node.op)!, inputs: [...node.inputs, value] };
    return true;
  };

  nodes.forEach((node, i) => {
    if (node.op !== addOp) return;
    const [a, b] = node.inputs as [Value, Value];
    const same = a.type.shape.length === b.type.shape.length;
    const pairs: (readonly [Value, Value])[] = same
      ? [
          [b, a],
          [a, b],
        ]
      : [[a, b]];
    for (const [product, onto] of pairs) {
      const at = productAt(product);
      if (at === undefined || product === onto || !fits(fused[at]!, onto) || overwritten(at, i)) continue;
      const { op, inputs, attributes } = fused[at]!;
      const begun = ONTO.get(op);
      if (begun) {
        // it runs where the add did: both are there by then
        fused[i] = { ...node, op: begun, attributes, inputs: [...inputs, onto] };
        fused[at] = undefined;
      } else if (begin(at, onto)) {
        fused[i] = { ...node, op, attributes, inputs: fused[at]!.inputs };
        fused[at] = undefined;
      } else continue;
      break;
    }
  });
  return fused.flatMap((node) => node ?? []);
}

/** All of the product's entries or, on a matmul, one for each of its columns. */
function fits({ op, outputs }: Node, onto: Value): boolean {
  const [size, own] = [outputs[0]!, onto].map(({ type }) => sizeOf(concrete(type.shape)));
  return size === own || (onto.type.shape.length === 1 && (op === matmulOp || op === matmulOntoOp));
}
