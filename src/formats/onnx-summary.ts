/** What an ONNX file is, in the figures that a person asks for: operators, inputs and outputs, parameters, types. */
import type { ByteSource } from './byte-source.ts';
import { openOnnx } from './onnx-read.ts';
import { isExternal, type OnnxValue } from './onnx.ts';

export interface OnnxBorder {
  readonly name: string;
  /** As ONNX names it: FLOAT, INT64 …; UNDEFINED where it is no tensor. */
  readonly type: string;
  /** Numbers, names of free dimensions, '?' where neither is said. */
  readonly shape: readonly (number | string)[];
}

export interface OnnxSummary {
  readonly ir_version: number;
  readonly producer: string;
  /** Domain → version; ONNX's own is ''. */
  readonly opsets: Readonly<Record<string, number>>;
  /** Operator of the main graph → how often; with its domain where it is not ONNX's own. */
  readonly operators: Readonly<Record<string, number>>;
  readonly inputs: readonly OnnxBorder[];
  readonly outputs: readonly OnnxBorder[];
  /** Elements of all initializers. */
  readonly parameters: number;
  /** Type → how many initializers. */
  readonly dtypes: Readonly<Record<string, number>>;
  /** Files that hold initializers, beside this one. */
  readonly external: readonly string[];
}

export async function summarizeOnnx(source: ByteSource): Promise<OnnxSummary> {
  const { ir_version, producer_name, opsets, graph } = await openOnnx(source);
  const { nodes, initializers } = graph;
  const names = new Set(initializers.map(({ name }) => name));
  const external = initializers.flatMap(({ data }) => (isExternal(data) ? [data.location] : []));
  return {
    ir_version,
    producer: producer_name,
    opsets,
    operators: countBy(nodes.map(({ op_type, domain }) => (domain === '' ? op_type : `${domain}.${op_type}`))),
    // Older exporters list initializers among the inputs.
    inputs: graph.inputs.filter(({ name }) => !names.has(name)).map(border),
    outputs: graph.outputs.map(border),
    parameters: initializers.reduce((sum, { dims }) => sum + dims.reduce((a, b) => a * b, 1), 0),
    dtypes: countBy(initializers.map(({ dtype }) => dtype)),
    external: [...new Set(external)],
  };
}

function border({ name, dtype, shape = [] }: OnnxValue): OnnxBorder {
  return { name, type: dtype ?? 'UNDEFINED', shape: shape.map((size) => size ?? '?') };
}

function countBy(names: readonly string[]): Record<string, number> {
  const counts = new Map<string, number>();
  for (const name of names) counts.set(name, (counts.get(name) ?? 0) + 1);
  return Object.fromEntries(counts);
}
