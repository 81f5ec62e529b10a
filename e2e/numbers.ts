/**
 * What a device computes, for the device of a page and of Node alike: a decoder layer with its distillation loss and all
 * gradients, the other norms and activations beside it, and a few steps of two trainers.
 */
import { gradients } from '../src/engine/graph/autodiff.ts';
import { Graph } from '../src/engine/graph/graph.ts';
import { interpret } from '../src/engine/graph/interpret.ts';
import { sizeOf, type Shape, type Value } from '../src/engine/graph/types.ts';
import * as ops from '../src/engine/ops/index.ts';
import { plan } from '../src/engine/plan/plan.ts';
import { Device } from '../src/engine/run/device.ts';
import { Arena, Program, type HostArray } from '../src/engine/run/program.ts';
import { noise } from '../src/engine/tune/noise.ts';
import { baseParameters } from '../src/models/model.ts';
import type { Optim } from '../src/train/optimizers.ts';
import { CROSS_ENTROPY, type StepModel } from '../src/train/step-graphs.ts';
import { options as tinyOptions } from '../src/train/tiny-options.testing.ts';
import { Trainer } from '../src/train/trainer.ts';

export interface Numbers {
  readonly adapter: string;
  /** By output: the largest difference from float64 over the largest entry. */
  readonly differences: Readonly<Record<string, number>>;
  /** By output or trained weight: the SHA-256 of its f32s. */
  readonly bits: Readonly<Record<string, string>>;
  /** Of each trainer's steps. */
  readonly losses: Readonly<Record<string, readonly number[]>>;
}

/** @param gpu Node's; a page has its own */
export async function numbers(gpu: GPU = navigator.gpu): Promise<Numbers> {
  const device = await Device.create(gpu);
  const differences: Record<string, number> = {};
  const bits: Record<string, string> = {};
  const losses: Record<string, number[]> = {};
  const { graph, given } = layer();
  const bindings = new Map(Object.entries(given).map(([name, data]) => [name, Float64Array.from(data)]));
  const wanted = interpret(graph, bindings, [...graph.outputs.values()]);
  const arena = new Arena(device);
  const program = await Program.create(device, plan(graph, device.limits), new Map(), arena);
  const got = await program.run(given);
  for (const [i, name] of [...graph.outputs.keys()].entries()) {
    differences[name] = difference(got.get(name)!, wanted[i]!.data);
    bits[name] = await digest(got.get(name)!);
  }
  for (const [name, { model, optim }] of Object.entries(TRAINERS)) {
    const trained = await train(device, model, optim);
    losses[name] = trained.losses;
    for (const [weight, data] of trained.weights) bits[`${name}: ${weight}`] = await digest(data);
  }
  const { description, device: named, architecture } = device.adapter;
  device.destroy();
  return { adapter: [description, named, architecture].join(' '), differences, bits, losses };
}

const SIZES = { B: 2, T: 13, V: 45, H: 36, heads: 4, kv_heads: 2, head_dim: 8, F: 50, k: 3 } as const;

/** Sizes that no vector divides beside such that some does; padding, and rows that hold two sequences. */
function layer(): { graph: Graph; given: Record<string, HostArray> } {
  const { B, T, V, H, heads, kv_heads, head_dim, F, k } = SIZES;
  const graph = new Graph();
  const given: Record<string, HostArray> = {};
  const float = (name: string, shape: Shape, map: (x: number, i: number) => number = (x) => x): Value => {
    given[name] = noise(sizeOf(shape), Object.keys(given).length + 1).map(map);
    return graph.input(name, shape);
  };
  const integer = (name: string, shape: Shape, of: (i: number) => number): Value => {
    given[name] = Int32Array.from({ length: sizeOf(shape) }, (_, i) => of(i));
    return graph.input(name, shape, 'i32');
  };
  const weights: Value[] = [];
  const weight = (name: string, shape: Shape): Value => {
    weights.push(float(name, shape, (x) => 0.5 * x));
    return weights.at(-1)!;
  };
  const linear = (x: Value, name: string, rows: number): Value =>
    ops.matmul(x, weight(name, [rows, x.type.shape.at(-1)!]), { transB: true });

  const table = weight('table', [V, H]);
  const segments = integer('segments', [B, T], (i) => (i < 5 ? 1 : i < T ? 2 : i < 2 * T - 3 ? 1 : 0));
  const positions = integer('positions', [B, T], (i) => i % T);
  const [cos, sin] = [Math.cos, Math.sin].map((turn, i) =>
    float(['cos', 'sin'][i]!, [T, head_dim / 2], (_, j) => turn(Math.floor(j / 4) / 10 ** (j % 4))),
  );
  const turned = (x: Value): Value => ops.rotary(x, cos!, sin!, positions, { head_dim });
  const x = ops.embedding(
    table,
    integer('ids', [B, T], (i) => (i * 7) % V),
  );
  const normed = ops.rmsnorm(x, weight('norm', [H]), { eps: 1e-5 });
  const [q, key, value] = ops.split(linear(normed, 'qkv', (heads + 2 * kv_heads) * head_dim), [
    heads * head_dim,
    kv_heads * head_dim,
    kv_heads * head_dim,
  ]);
  const shape = { heads, kv_heads, head_dim, scale: head_dim ** -0.5, causal: true, window: 7, softcap: 5 };
  const [mixed] = ops.attention(turned(q!), turned(key!), value!, segments, segments, shape);
  const middle = ops.add(x, linear(mixed, 'output', H));
  const second = ops.layernorm(middle, weight('second norm', [H]), weight('second bias', [H]), { eps: 1e-5 });
  const gated = ops.siluMul(linear(second, 'gate', F), linear(second, 'up', F));
  const seed = integer('seed', [2], (i) => 7 + i);
  const dropped = ops.dropout(gated, seed, { p: 0.1, site: 3 });
  const down = ops.addScaled(linear(dropped, 'down', H), ops.activation(middle, 'gelu'), 0.5);
  const hidden = ops.concat(ops.split(ops.softcap(ops.add(middle, down), 4), [11, 25]));

  const teacher = {
    ids: integer('teacher ids', [B, T, k], (i) => (5 * Math.floor(i / k) + 3 * (i % k)) % V),
    logits: float('teacher logits', [B, T, k]),
    log_z: float('teacher log z', [B, T], (y) => 3 + 0.1 * y),
  };
  const targets = integer('targets', [B, T], (i) => (i % 5 === 0 ? -100 : (i * 11) % V));
  const { loss } = ops.linearLoss(
    hidden,
    table,
    targets,
    float('scale', [1], () => 0.05),
    {
      objective: 'forward_kl',
      temperature: 2,
      alpha: 0.7,
      tail: 'bucket',
      label_smoothing: 0.1,
      hiddenGradient: true,
      weightGradient: true,
    },
    teacher,
  );
  const top = ops.linearTopk(hidden, table, { k: 5, temperatures: [1, 2] });
  const points = float('points', [B, T, 4], (_, i) => ((i % 4) + 0.37) / 4);
  const drawn = ops.linearSample(hidden, table, points, { temperatures: [1, 2] });
  const found = gradients(
    graph,
    loss,
    float('one', [1], () => 1),
    weights,
  );
  const said = { loss, hidden, 'top logits': top.logits, 'log z': top.log_z, 'drawn logits': drawn.logits };
  for (const [name, output] of Object.entries(said)) graph.output(name, output);
  for (const one of weights) graph.output(`gradient of ${graph.sourceOf(one)!.name}`, found.get(one)!);
  return { graph, given };
}

const options = { ...tinyOptions, num_hidden_layers: 2 };
const lora = { r: 4, lora_alpha: 8, lora_dropout: 0.2, target_modules: ['q_proj', 'down_proj'], use_rslora: false };
const TRAINERS: Readonly<Record<string, { model: StepModel; optim: Optim }>> = {
  'all weights by Adafactor': { model: { options, adapter: null, trainable: () => true }, optim: 'adafactor' },
  'a DoRA adapter by AdamW': {
    model: { options, adapter: { settings: { ...lora, use_dora: true }, trainable: true }, trainable: () => false },
    optim: 'adamw_torch',
  },
};

async function train(
  device: Device,
  model: StepModel,
  optim: Optim,
): Promise<{ losses: number[]; weights: ReadonlyMap<string, Float32Array> }> {
  const start = (shape: Shape, seed: number): Float32Array =>
    noise(sizeOf(shape), seed).map((x) => (shape.length === 1 ? 1 + 0.1 * x : 0.2 * x));
  const batch = { rows: 2, length: 24 };
  const trainer = await Trainer.create(
    {
      device,
      model,
      objective: CROSS_ENTROPY,
      optimizer: { optim, adam_beta1: 0.9, adam_beta2: 0.999, adam_epsilon: 1e-8, weight_decay: 0.1, max_grad_norm: 1 },
      schedule: { lr_scheduler_type: 'constant', learning_rate: 1e-2, warmup_steps: 0, total_steps: 3 },
      seed: 7,
      trainShapes: [batch],
      evalShapes: [],
    },
    async (place) => {
      const tensors = new Map();
      let seed = 1;
      for (const [name, shape] of baseParameters(options)) {
        const trained = place(name, shape);
        if (trained) device.write(trained, start(shape, seed++));
        else tensors.set(name, device.tensor({ shape, dtype: 'f32' }, start(shape, seed++)));
      }
      return tensors;
    },
  );
  let seed = 100;
  for (const [name, tensor] of trainer.flat.parameters)
    if (name.includes('lora_')) device.write(tensor, start(tensor.type.shape, seed++));
  const ids = Int32Array.from({ length: 48 }, (_, i) => (i * 37) % options.vocab_size);
  const micro = {
    ...batch,
    filled_rows: 2,
    input_ids: ids,
    labels: ids,
    position_ids: Int32Array.from(ids, (_, i) => i % 24),
    segment_ids: new Int32Array(48).fill(1),
  };
  const losses = [];
  for (let step = 0; step < 3; step++) losses.push((await trainer.submitStep([micro, micro], [])).loss);
  const weights = await trainer.trained();
  trainer.free();
  return { losses, weights };
}

function difference(got: HostArray, wanted: Float64Array): number {
  let [largest, most] = [0, 0];
  wanted.forEach((value, i) => {
    largest = Math.max(largest, Math.abs(value));
    const off = Math.abs(value - got[i]!);
    if (!(off <= most)) most = off;
  });
  return most / (largest || 1);
}

async function digest(data: HostArray): Promise<string> {
  const hash = await crypto.subtle.digest('SHA-256', data.slice().buffer as ArrayBuffer);
  return [...new Uint8Array(hash)].map((byte) => byte.toString(16).padStart(2, '0')).join('');
}
