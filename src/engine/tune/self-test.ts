/**
 * Whether a device computes right, and how fast: asked once a driver and version. A small decoder layer, its loss and all
 * its gradients, by the kernels that the device would be given, against float64. Where subgroup functions give wrong
 * numbers the device is used without them; where the plain kernels do too, nothing that it computes can be trusted. A GPU's
 * products that have kernels of their own are tried by each of these, and do without those that are wrong.
 */
import { EngineError } from '../errors.ts';
import { gradients } from '../graph/autodiff.ts';
import { Graph } from '../graph/graph.ts';
import { interpret } from '../graph/interpret.ts';
import { sizeOf, type Value } from '../graph/types.ts';
import { isCpu } from '../ops/matmul/lanes.ts';
import { attention, embedding, linearLoss, matmul, add, rmsnorm, rotary, siluMul } from '../ops/index.ts';
import { plan } from '../plan/plan.ts';
import type { Device } from '../run/device.ts';
import { Arena, Program, type HostArray } from '../run/program.ts';
import { noise } from './noise.ts';
import { matmulRate, measureSpeed, SMALL, type Speed } from './speed.ts';

export interface SelfTest {
  /** Subgroup functions give right numbers here, or are not there. */
  readonly subgroups: boolean;
  /** Variants of kernels that gave wrong numbers. */
  readonly refused: readonly string[];
  /** Of a matmul of 512³. */
  readonly flops_per_second: number;
  readonly speed: Speed;
}

/** Rounding leaves 1e-6 of the largest entry; a kernel that is wrong is wrong in the first digits. */
const TOLERANCE = 1e-4;

export async function selfTest(device: Device): Promise<SelfTest> {
  const { limits } = device;
  const test = layer();
  let wrong = await wrongest(device, limits, test);
  const subgroups = wrong === undefined;
  if (!subgroups && limits.subgroupSize !== undefined) {
    wrong = await wrongest(device, { ...limits, subgroups: false, subgroupSize: undefined }, test);
  }
  if (wrong !== undefined) throw new EngineError('wrong-numbers', wrong);
  const used = subgroups ? limits : { ...limits, subgroups: false, subgroupSize: undefined };
  const refused = isCpu(used.subgroupSize) ? [] : await wrongVariants(device, used);
  const flops_per_second = await matmulRate(device, SMALL);
  return { subgroups, refused, flops_per_second, speed: await measureSpeed(device, flops_per_second) };
}

/**
 * The tuner holds other variants to the safe one, and the layer has tried what is safe for most shapes; these two shapes have
 * kernels of their own instead (matmul/variants.ts). Adapters that compute on the CPU have none.
 */
async function wrongVariants(device: Device, limits: Device['limits']): Promise<string[]> {
  const fewRows = new Graph();
  fewRows.output('y', matmul(fewRows.input('a', [2, 512]), fewRows.input('b', [64, 512]), { transB: true }));
  const longSums = new Graph();
  longSums.output('y', matmul(longSums.input('a', [516, 8]), longSums.input('b', [516, 36]), { transA: true }));
  const wrong: string[] = [];
  for (const graph of [fewRows, longSums]) {
    const { key, variants } = plan(graph, limits).dispatches[0]!.dispatch.choice!;
    for (const { name } of variants()) {
      const tuning = new Map([[key, name]]);
      if ((await wrongest(device, { ...limits, tuning }, graph)) !== undefined) wrong.push(name);
    }
  }
  return wrong;
}

/** The first output that is not what float64 says; undefined where all are. */
async function wrongest(device: Device, limits: Device['limits'], graph: Graph): Promise<string | undefined> {
  const values: Record<string, HostArray> = {};
  for (const source of graph.sources.values()) {
    const { shape, dtype } = source.value.type;
    if (source.kind !== 'input') continue;
    values[source.name] = dtype === 'i32' ? integers(source.name) : noise(sizeOf(shape), source.name.length);
  }
  const bindings = new Map(Object.entries(values).map(([name, data]) => [name, Float64Array.from(data)]));
  const wanted = interpret(graph, bindings, [...graph.outputs.values()]);
  const arena = new Arena(device);
  const program = await Program.create(device, plan(graph, limits), new Map(), arena);
  try {
    const got = await program.run(values);
    return [...graph.outputs.keys()].find((name, i) => !close(got.get(name)!, wanted[i]!.data));
  } finally {
    program.free();
    arena.free();
  }
}

const SIZES = { B: 2, T: 12, V: 40, H: 32, heads: 2, kv_heads: 1, head_dim: 16, F: 48 } as const;

/** A decoder layer with its loss and the gradient of every weight. */
function layer(): Graph {
  const { B, T, V, H, heads, kv_heads, head_dim, F } = SIZES;
  const graph = new Graph();
  const weight = (name: string, shape: readonly number[]): Value => graph.input(name, shape);
  const linear = (x: Value, name: string, rows: number): Value =>
    matmul(x, weight(name, [rows, x.type.shape.at(-1) as number]), { transB: true });
  const table = weight('table', [V, H]);
  const ids = graph.input('ids', [B, T], 'i32');
  const segments = graph.input('segments', [B, T], 'i32');
  const places = graph.input('positions', [B, T], 'i32');
  const [cos, sin] = [weight('cos', [T, head_dim / 2]), weight('sin', [T, head_dim / 2])];
  const turned = (x: Value): Value => rotary(x, cos, sin, places, { head_dim });
  const x = embedding(table, ids);
  const normed = rmsnorm(x, weight('norm', [H]), { eps: 1e-5 });
  const [mixed] = attention(
    turned(linear(normed, 'query', heads * head_dim)),
    turned(linear(normed, 'key', kv_heads * head_dim)),
    linear(normed, 'value', kv_heads * head_dim),
    segments,
    segments,
    { heads, kv_heads, head_dim, scale: head_dim ** -0.5, causal: true },
  );
  const middle = add(x, linear(mixed, 'output', H));
  const hidden = add(middle, linear(siluMul(linear(middle, 'gate', F), linear(middle, 'up', F)), 'down', H));
  const { loss } = linearLoss(hidden, table, graph.input('targets', [B, T], 'i32'), graph.input('scale', [1]), {
    objective: 'none',
    temperature: 1,
    alpha: 0,
    tail: 'bucket',
    label_smoothing: 0.1,
    hiddenGradient: true,
    weightGradient: true,
  });
  const trained = ['table', 'norm', 'query', 'key', 'value', 'output', 'gate', 'up', 'down'];
  const sources = new Map([...graph.sources.values()].map(({ name, value }) => [name, value]));
  const wrt = trained.map((name) => sources.get(name)!);
  const found = gradients(graph, loss, graph.input('seed', [1]), wrt);
  graph.output('loss', loss);
  trained.forEach((name, i) => graph.output(`gradient of ${name}`, found.get(wrt[i]!)!));
  return graph;
}

function integers(name: string): Int32Array {
  const { B, T, V } = SIZES;
  const of: Record<string, (i: number) => number> = {
    ids: (i) => (i * 7) % V,
    targets: (i) => (i % 5 === 0 ? -100 : (i * 11) % V),
    positions: (i) => i % T,
    // two sequences in the first row, padding at the end of the second
    segments: (i) => (i < 5 ? 1 : i < T ? 2 : i < 2 * T - 3 ? 1 : 0),
  };
  return Int32Array.from({ length: B * T }, (_, i) => of[name]!(i));
}

function close(got: ArrayLike<number>, wanted: Float64Array): boolean {
  const largest = wanted.reduce((most, value) => Math.max(most, Math.abs(value)), 1e-9);
  return wanted.every((value, i) => Math.abs(got[i]! - value) <= TOLERANCE * largest);
}
