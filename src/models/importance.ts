/**
 * What a model's parts do on sample text, to choose what a smaller one keeps (DESIGN §4):
 *
 *   a layer     the angle by which it turns its input, arccos(cos(x_in, x_out)) / π, mean over tokens: one that hardly turns
 *               it is hardly missed (Gromov et al. 2024, arXiv 2403.17887; theirs is of a block, ours of each layer)
 *               An encoder's stream is normed after every layer and each turns it about as much, whatever it is worth: there
 *               it is the loss of the model without the layer (Kim et al. 2024, Shortened LLaMA, arXiv 2402.02834, §3.2)
 *   a channel   the root mean square of its activations: of the residual stream after each norm, of the MLP before its
 *               last projection, of each head's output (Muralidharan et al. 2024, arXiv 2407.14679, §2.2)
 *   in a head   of queries and keys the product of the two, because their channels meet one by one in the scores
 *
 * Nothing of the model is changed for it: the activations are found in its graph by the weights that read or make them.
 */
import { Graph } from '../engine/graph/graph.ts';
import type { Value } from '../engine/graph/types.ts';
import { layernorm, linearLoss, matmul, mul, rmsnorm, sumLeading } from '../engine/ops/index.ts';
import { plan } from '../engine/plan/plan.ts';
import type { Device, DeviceTensor } from '../engine/run/device.ts';
import { Arena, Program } from '../engine/run/program.ts';
import { isEncoder, type ModelOptions } from './architectures/index.ts';
import { layersOf, sizesOf } from './cut.ts';
import { languageModel } from './language-model.ts';
import { LLAMA_NAMES } from './names.ts';

export interface Importance {
  /** How much each layer is missed: its angle, 0 to 1, or the loss without it. */
  readonly layers: readonly number[];
  /** By the norm's path: mean square of each channel that it gives, [hidden]. */
  readonly norms: Readonly<Record<string, readonly number[]>>;
  /** By the norm's path: mean square of each channel as it is divided, before gain and bias, [hidden]; over all of them 1. */
  readonly normalized: Readonly<Record<string, readonly number[]>>;
  /** By layer: mean square of each channel of the MLP, [intermediate]. */
  readonly intermediate: readonly (readonly number[])[];
  /** By layer: mean square of each head's output, [heads]. */
  readonly heads: readonly (readonly number[])[];
  /** By layer: mean square of each channel of the heads' output, [heads · head_dim]. */
  readonly values: readonly (readonly number[])[];
  /** By layer of an encoder: mean squares of queries and keys, multiplied channel by channel, [heads · head_dim]. */
  readonly queries?: readonly (readonly number[])[];
}

/** A text that is looked at; `labels` stand at an encoder's masked tokens, -100 elsewhere. */
export interface Sample {
  readonly input_ids: ArrayLike<number>;
  /** Only where the model has learned to guess them. */
  readonly labels?: ArrayLike<number>;
}

/** Tokens that are looked at, in batches of one row. */
const LENGTH = 256;
const BATCHES = 4;

/** @param tensors the model's parameters on the device */
export async function measureImportance(
  device: Device,
  options: ModelOptions,
  tensors: ReadonlyMap<string, DeviceTensor>,
  samples: readonly Sample[],
  onProgress?: (done: number, of: number) => void,
): Promise<Importance> {
  const rows = packed(samples, Math.min(LENGTH, options.max_position_embeddings));
  const graph = measuringGraph(options, rows[0]!.input_ids.length);
  const arena = new Arena(device);
  const program = await Program.create(device, plan(graph, device.limits), tensors, arena);
  const sums = new Map<string, Float64Array>();
  let tokens = 0;
  try {
    for (const [i, { targets: _targets, ...row }] of rows.entries()) {
      const outputs = await program.run({ ...row, token_type_ids: new Int32Array(row.input_ids.length) });
      for (const [name, data] of outputs) {
        const sum = sums.get(name) ?? new Float64Array(name.startsWith('turn.') ? 1 : data.length);
        sums.set(name, sum);
        if (!name.startsWith('turn.')) for (let c = 0; c < sum.length; c++) sum[c]! += data[c]!;
      }
      addAngles(outputs as ReadonlyMap<string, Float32Array>, sums, options.num_hidden_layers);
      tokens += row.input_ids.length;
      onProgress?.(i + 1, rows.length);
    }
  } finally {
    program.free();
    arena.free();
  }
  const mean = (name: string): number[] => Array.from(sums.get(name)!, (sum) => sum / tokens);
  const layers = Array.from({ length: options.num_hidden_layers }, (_, i) => i);
  const byPath = (lead: string): Record<string, number[]> => {
    const names = [...sums.keys()].filter((name) => name.startsWith(lead));
    return Object.fromEntries(names.map((name) => [name.slice(lead.length), mean(name)]));
  };
  const guessed =
    isEncoder(options) &&
    options.num_hidden_layers > 1 &&
    rows.some(({ targets }) => targets.some((id) => id !== -100));
  return {
    layers: guessed ? await lossesWithout(device, options, tensors, rows) : layers.map((i) => mean(`turn.${i}`)[0]!),
    norms: byPath('norm.'),
    normalized: byPath('normalized.'),
    intermediate: layers.map((i) => mean(`mlp.${i}`)),
    heads: layers.map((i) => byHead(mean(`attention.${i}`), sizesOf(options).head_dim)),
    values: layers.map((i) => mean(`attention.${i}`)),
    ...(isEncoder(options) && {
      queries: layers.map((i) => {
        const key = mean(`key.${i}`);
        return mean(`query.${i}`).map((square, c) => square * key[c]!);
      }),
    }),
  };
}

/** By layer: the loss of the model without it, summed over the rows' labels. One plan for all: each binds other layers. */
async function lossesWithout(
  device: Device,
  options: ModelOptions,
  tensors: ReadonlyMap<string, DeviceTensor>,
  rows: readonly Row[],
): Promise<number[]> {
  const { num_hidden_layers } = options;
  const graph = new Graph();
  const ids = (name: string): Value => graph.input(name, [1, rows[0]!.input_ids.length], 'i32');
  const { head } = languageModel(graph, { ...options, num_hidden_layers: num_hidden_layers - 1 }, ids);
  if (!head) throw new RangeError('a model without a head guesses nothing');
  const { loss } = linearLoss(
    head.hidden,
    head.weight,
    ids('targets'),
    graph.input('token_scale', [1]),
    {
      objective: 'none',
      temperature: 1,
      alpha: 0,
      tail: 'bucket',
      label_smoothing: 0,
      hiddenGradient: false,
      weightGradient: false,
    },
    undefined,
    head.bias,
  );
  graph.output('loss', loss);
  const planned = plan(graph, device.limits);
  const lead = `${layersOf(options)}.`;
  const losses: number[] = [];
  for (let gone = 0; gone < num_hidden_layers; gone++) {
    const others = new Map<string, DeviceTensor>();
    for (const [name, tensor] of tensors) {
      const layer = name.startsWith(lead) ? Number(/\d+/.exec(name.slice(lead.length))![0]) : -1;
      if (layer === gone) continue;
      others.set(layer > gone ? name.replace(`${lead}${layer}.`, `${lead}${layer - 1}.`) : name, tensor);
    }
    const arena = new Arena(device);
    const program = await Program.create(device, planned, others, arena);
    let sum = 0;
    try {
      for (const row of rows) {
        const inputs = {
          ...row,
          token_type_ids: new Int32Array(row.input_ids.length),
          token_scale: Float32Array.of(1),
        };
        sum += (await program.run(inputs)).get('loss')![0]!;
      }
    } finally {
      program.free();
      arena.free();
    }
    losses.push(sum);
  }
  return losses;
}

/** Outputs: sums over the tokens of squares, and for each layer's boundary the products that its angle is made of. */
function measuringGraph(options: ModelOptions, length: number): Graph {
  const graph = new Graph();
  const ids = (name: string): Value => graph.input(name, [1, length], 'i32');
  const { hidden_states } = languageModel(graph, options, ids);
  const { names = LLAMA_NAMES, hidden_size, num_hidden_layers } = options;
  const readers = new Map<string, { x: Value; y: Value }>();
  for (const node of graph.nodes) {
    const source = node.inputs[1] && graph.sourceOf(node.inputs[1]);
    if (source?.kind === 'parameter') readers.set(source.name, { x: node.inputs[0]!, y: node.outputs[0]! });
  }
  const attentions = graph.nodes
    .filter(({ op }) => op.name === 'attention')
    .map(({ inputs: [query, key] }) => ({ query: query!, key: key! }));
  const squares = (name: string, x: Value): void => graph.output(name, sumLeading(mul(x, x), 1));

  for (let i = 0; i < num_hidden_layers; i++) {
    const path = `${names.layers}.${i}`;
    squares(`mlp.${i}`, readers.get(`${path}.${names.down}.weight`)!.x);
    squares(`attention.${i}`, readers.get(`${path}.${names.attention_output}.weight`)!.x);
    if (!isEncoder(options)) continue;
    // as attention reads them: after their biases
    const { query, key } = attentions[i]!;
    squares(`query.${i}`, query);
    squares(`key.${i}`, key);
  }
  const all = (name: string, value: number): Value =>
    graph.constant(name, [hidden_size], new Float32Array(hidden_size).fill(value));
  const [one, zero] = [all('one', 1), all('zero', 0)];
  for (const node of graph.nodes.slice()) {
    if (node.op.name !== 'rmsnorm' && node.op.name !== 'layernorm') continue;
    const [x, gain] = node.inputs;
    if (x!.type.shape.at(-1) !== hidden_size || x!.type.shape.length !== 3) continue;
    const path = graph.sourceOf(gain!)!.name.replace(/\.weight$/, '');
    squares(`norm.${path}`, node.outputs[0]!);
    const eps = node.attributes.eps as number;
    const divided = node.op.name === 'rmsnorm' ? rmsnorm(x!, one, { eps }) : layernorm(x!, one, zero, { eps });
    squares(`normalized.${path}`, divided);
  }

  // the last of a decoder's hidden_states is normed already, and an encoder's stream is normed at every layer
  const stream = isEncoder(options)
    ? hidden_states
    : [...hidden_states.slice(0, -1), hidden_states.at(-1)!.node.inputs[0]!];
  const ones = graph.constant('ones', [hidden_size, 1], new Float32Array(hidden_size).fill(1));
  const product = (name: string, a: Value, b: Value): void => graph.output(name, matmul(mul(a, b), ones));
  stream.forEach((x, i) => {
    product(`turn.square.${i}`, x, x);
    if (i > 0) product(`turn.across.${i - 1}`, stream[i - 1]!, x);
  });
  return graph;
}

function addAngles(outputs: ReadonlyMap<string, Float32Array>, sums: Map<string, Float64Array>, layers: number): void {
  for (let i = 0; i < layers; i++) {
    const [before, after, across] = [`square.${i}`, `square.${i + 1}`, `across.${i}`].map((name) =>
      outputs.get(`turn.${name}`)!,
    ) as [Float32Array, Float32Array, Float32Array];
    const sum = sums.get(`turn.${i}`) ?? new Float64Array(1);
    sums.set(`turn.${i}`, sum);
    across.forEach((dot, t) => {
      const cosine = dot / Math.sqrt(before[t]! * after[t]!);
      sum[0]! += Math.acos(Math.min(1, Math.max(-1, cosine || 0))) / Math.PI;
    });
  }
}

function byHead(channels: readonly number[], size: number): number[] {
  return Array.from({ length: channels.length / size }, (_, head) =>
    channels.slice(head * size, (head + 1) * size).reduce((a, b) => a + b, 0),
  );
}

interface Row {
  readonly input_ids: Int32Array;
  readonly position_ids: Int32Array;
  readonly segments: Int32Array;
  readonly targets: Int32Array;
}

/** Texts one after the other in rows without padding; each is a segment with positions of its own. */
function packed(samples: readonly Sample[], length: number): Row[] {
  const all = samples.reduce((sum, { input_ids }) => sum + Math.min(input_ids.length, length), 0);
  const width = Math.min(length, all);
  const rows: Row[] = [];
  let row: Row | undefined;
  let at = width;
  let segment = 0;
  for (const { input_ids, labels } of samples) {
    for (let position = 0; position < Math.min(input_ids.length, width); position++) {
      if (at === width) {
        if (rows.length === BATCHES) return rows;
        row = {
          input_ids: new Int32Array(width),
          position_ids: new Int32Array(width),
          segments: new Int32Array(width),
          targets: new Int32Array(width).fill(-100),
        };
        rows.push(row);
        at = 0;
        segment = 1;
      } else if (position === 0) segment++;
      row!.input_ids[at] = input_ids[position]!;
      row!.targets[at] = labels?.[position] ?? -100;
      row!.position_ids[at] = position;
      row!.segments[at++] = segment;
    }
  }
  // a last row that was not filled would be measured with what is not there
  return at < width && rows.length > 1 ? rows.slice(0, -1) : rows;
}
