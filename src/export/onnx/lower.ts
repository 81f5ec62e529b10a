/**
 * A graph ─▶ ONNX: the very graph that trains, with sizes that only the caller will know as symbols.
 * Opset 21 (IR 10): what onnxruntime 1.18 and later, and so every current runtime, reads.
 */
import type { Graph } from '../../engine/graph/graph.ts';
import type { Value } from '../../engine/graph/types.ts';
import type { TensorFile } from '../../formats/tensor-file.ts';
import { cacheOf, Lowering, type Flavour } from './lowering.ts';
import { lowerings } from './ops/index.ts';
import type { Precision } from './precision/precision.ts';
import { TOTAL } from './sizes.ts';
import type { Border, OnnxProgram } from './program.ts';

export const OPSET = 21;
export const IR_VERSION = 10;

export interface LowerOptions {
  readonly precision: Precision;
  readonly flavour?: Flavour;
  /** Values to be read beside the outputs, under these names: how a difference is traced to its operator. */
  readonly expose?: ReadonlyMap<string, Value>;
}

export function lower(graph: Graph, weights: Pick<TensorFile, 'readF32'>, options: LowerOptions): OnnxProgram {
  const { precision, flavour = 'ort', expose = new Map<string, Value>() } = options;
  const c = new Lowering({ graph, weights, precision, flavour, lowerings });
  const outputs: Border[] = [...graph.outputs, ...expose].map(([name, value]) => writeOutput(c, name, value));
  const order = [...graph.sources.keys()];
  return {
    name: 'stillroom',
    nodes: c.nodes,
    initializers: [...c.initializers.values()],
    inputs: c.inputs.sort((a, b) => order.indexOf(a.name) - order.indexOf(b.name)),
    outputs,
    // only domains that an operator here is of
    opsets: {
      '': OPSET,
      ...Object.fromEntries(
        Object.entries(precision.domains).filter(([domain]) => c.nodes.some((node) => node.domain === domain)),
      ),
    },
  };
}

/** Logits (and what is exposed) in single precision; caches as they are kept. */
function writeOutput(c: Lowering, name: string, value: Value): Border {
  const lowered = c.lower(value);
  const isCache = lowered.layout === 'heads-first';
  const type = isCache ? lowered.type : 'FLOAT';
  c.nodes.push({
    name: `output/${name}`,
    op: 'Identity',
    domain: '',
    inputs: [isCache ? lowered.name : c.get(value, type)],
    outputs: [name],
    attributes: {},
  });
  const cache = isCache ? cacheOf(value.node.inputs[0]!, c.graph)! : undefined;
  const shape = cache ? [value.type.shape[0]!, cache.kv_heads, TOTAL, cache.head_dim] : value.type.shape;
  return { name, type, shape };
}
