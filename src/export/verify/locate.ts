/**
 * Where a file leaves the engine: every value of the graph is read from a file written again with all of them as outputs,
 * and held against the same graph in float64. The first that differs by more than the tolerance names its operator.
 */
import { Graph } from '../../engine/graph/graph.ts';
import { interpret } from '../../engine/graph/interpret.ts';
import type { Dim, Shape, Value } from '../../engine/graph/types.ts';
import { BATCH, TOKENS, TOTAL } from '../onnx/sizes.ts';
import { nodeLabel } from '../onnx/lowering.ts';
import type { WeightSource } from '../merge.ts';
import { DecoderSession, type OnnxFile, type OrtModule } from './session.ts';
import { largestDifference, largestOf } from './verify.ts';

export interface Difference {
  /** e.g. "model.layers.2.mlp.down_proj/matmul" */
  readonly operator: string;
  /** Largest difference over the largest entry of that value. */
  readonly difference: number;
}

/** Float values of a graph that lie in a file as they lie in the graph, in the order in which they are computed. */
export function observable(graph: Graph): Map<string, Value> {
  const values = new Map<string, Value>();
  for (const node of graph.nodes) {
    const value = node.outputs[0];
    if (node.inputs.length === 0 || value?.type.dtype !== 'f32' || node.op.name === 'kv-append') continue;
    if (value.type.shape[0] === BATCH) values.set(`value.${value.id}`, value);
  }
  return values;
}

/**
 * @param write the file with these values as further outputs
 * @returns undefined where no value differs by more than `tolerance`
 */
export async function firstDifference(
  ort: OrtModule,
  graph: Graph,
  weights: WeightSource,
  input_ids: readonly number[],
  tolerance: number,
  write: (expose: ReadonlyMap<string, Value>) => Promise<OnnxFile>,
): Promise<Difference | undefined> {
  const exposed = observable(graph);
  const session = await DecoderSession.open(ort, await write(exposed));
  const ones = input_ids.map(() => 1);
  const answer = await session.run({ input_ids: [input_ids], attention_mask: [ones] });
  await session.close();

  const tokens = input_ids.length;
  const { copy, of } = withSizes(graph, { [BATCH]: 1, [TOKENS]: tokens, [TOTAL]: tokens });
  const bindings = new Map<string, Float64Array>();
  for (const [name, { kind, value }] of copy.sources) {
    const size = value.type.shape.reduce<number>((product, dim) => product * (dim as number), 1);
    if (kind === 'parameter') bindings.set(name, Float64Array.from(await weights.readF32(name)));
    else if (kind === 'state') bindings.set(name, new Float64Array(size));
  }
  bindings.set('input_ids', Float64Array.from(input_ids));
  bindings.set('position_ids', Float64Array.from(input_ids.keys()));
  bindings.set('token_type_ids', new Float64Array(tokens));
  for (const name of ['attention_mask', 'query_segments']) bindings.set(name, Float64Array.from(ones));
  bindings.set('past_length', Float64Array.of(0));

  const entries = [...exposed];
  const wanted = interpret(
    copy,
    bindings,
    entries.map(([, value]) => of(value)),
  );
  for (const [i, [name, value]] of entries.entries()) {
    const reference = wanted[i]!.data;
    const got = answer.others[name]!.data as Float32Array;
    const difference = largestDifference(got, reference) / (largestOf(reference) || 1);
    if (difference > tolerance) return { operator: nodeLabel(graph, value.node), difference };
  }
  return undefined;
}

/** The same graph with numbers for its symbols. */
export function withSizes(
  graph: Graph,
  sizes: Readonly<Record<string, number>>,
): { copy: Graph; of: (value: Value) => Value } {
  const copy = new Graph();
  const copies = new Map<Value, Value>();
  const known = (shape: Shape): Dim[] => shape.map((dim) => (typeof dim === 'string' ? (sizes[dim] ?? dim) : dim));
  for (const node of graph.nodes) {
    const source = node.outputs[0] && graph.sourceOf(node.outputs[0]);
    if (source) {
      const { kind, name, value, data } = source;
      const shape = known(value.type.shape);
      const made =
        kind === 'constant'
          ? copy.constant(name, shape, data!)
          : kind === 'parameter'
            ? copy.parameter(name, shape)
            : copy[kind](name, shape, value.type.dtype);
      copies.set(value, made);
      continue;
    }
    const made = copy.apply(
      node.op,
      node.inputs.map((value) => copies.get(value)!),
      node.attributes,
    );
    node.outputs.forEach((value, i) => copies.set(value, made[i]!));
  }
  return { copy, of: (value) => copies.get(value)! };
}
