/**
 * Runs a graph on the CPU in float64 by the ops' references: slow, plain, and the judge of every kernel and gradient.
 */
import type { Graph } from './graph.ts';
import { concrete, sizeOf, type Tensor64, type Value } from './types.ts';

/**
 * @param bindings the content of inputs, parameters and states by name (row-major)
 * @returns values of `wanted`; states that ops change in place are changed in `bindings` too
 */
export function interpret(graph: Graph, bindings: Map<string, Float64Array>, wanted: readonly Value[]): Tensor64[] {
  const known = new Map<Value, Tensor64>();
  for (const source of graph.sources.values()) {
    const data = source.data ? Float64Array.from(source.data) : bindings.get(source.name);
    if (!data) throw new RangeError(`nothing bound to '${source.name}'`);
    const shape = concrete(source.value.type.shape);
    if (data.length !== sizeOf(shape)) throw new RangeError(`'${source.name}': ${data.length} numbers for [${shape}]`);
    known.set(source.value, { shape, data });
  }
  for (const node of graph.nodes) {
    if (node.inputs.length === 0) continue;
    if (!node.op.reference) throw new RangeError(`'${node.op.name}' has no reference`);
    const types = node.outputs.map((value) => value.type);
    const results = node.op.reference(
      node.inputs.map((value) => known.get(value)!),
      node.attributes,
      types,
    );
    node.outputs.forEach((value, i) => {
      const target = node.op.inPlace?.[i];
      if (target !== undefined) known.get(node.inputs[target]!)!.data.set(results[i]!.data);
      known.set(value, results[i]!);
    });
  }
  return wanted.map((value) => known.get(value)!);
}
