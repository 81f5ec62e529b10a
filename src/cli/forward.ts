/**
 * `npm start -- forward`: one pass of a model over given ids by the engine in Node: logits and, as asked, loss, hidden states
 * and gradients, to be compared with anything. What is computed here is what trains: the same builder, the same loss. A
 * decoder's labels are shifted by one, an encoder's are not. Gradients have the names of PyTorch's parameters, with an
 * adapter those of PEFT's.
 */
import path from 'node:path';
import { gradients } from '../engine/graph/autodiff.ts';
import { Graph } from '../engine/graph/graph.ts';
import type { Shape, Value } from '../engine/graph/types.ts';
import { linearLoss } from '../engine/ops/index.ts';
import { plan } from '../engine/plan/plan.ts';
import { Device } from '../engine/run/device.ts';
import { Arena, Program } from '../engine/run/program.ts';
import { InputError } from '../formats/input-error.ts';
import { readAdapter, type Adapter } from '../formats/peft.ts';
import { openSafetensors, streamSafetensors, type TensorToWrite } from '../formats/safetensors.ts';
import type { TensorFile } from '../formats/tensor-file.ts';
import { isEncoder, type ModelOptions } from '../models/architectures/index.ts';
import { headGradients, languageModel, wholeLogits } from '../models/language-model.ts';
import { openAnyModel } from '../models/model.ts';
import { loadAdapter, loadParameters } from '../models/on-device.ts';
import { fitted, fittedName } from '../models/untie.ts';
import { targetsOf, type MicroBatch } from '../train/batch.ts';
import type { Command, Values } from './command.ts';
import { needed, text } from './flags.ts';
import { nodeFile, nodeFolder, nodeModel } from './node-files.ts';
import { nodeGpu } from './node-gpu.ts';
import { writeFileWhole } from './write-file.ts';

const usage = 'forward MODEL --inputs F.safetensors --out G.safetensors [--adapter DIR] [--grads] [--hidden]';

export const command: Command = {
  usage,
  flags: {
    inputs: { type: 'string' },
    out: { type: 'string' },
    adapter: { type: 'string' },
    grads: { type: 'boolean' },
    hidden: { type: 'boolean' },
  },
  positionals: [1, 1],
  run: forward,
};

export async function forward([modelFolder]: string[], values: Values): Promise<number> {
  const inputsFile = needed(values, 'inputs', usage);
  const out = needed(values, 'out', usage);
  const adapterFolder = text(values, 'adapter');
  const base = await openAnyModel(nodeModel(modelFolder!));
  const given = adapterFolder === undefined ? undefined : await readAdapter(nodeFolder(adapterFolder));
  const { model, adapter } = given ? await fitted(base, given, adapterFolder!) : { model: base, adapter: undefined };
  const batch = await readBatch(await openSafetensors(await nodeFile(inputsFile)), model.options);
  const targets = targetsOf(batch, isEncoder(model.options));

  const counted = targets.reduce((count, target) => count + (target === -100 ? 0 : 1), 0);
  const { graph, outputs, hasHead } = forwardGraph(model.options, batch, counted > 0, adapter, {
    gradients: values.grads === true,
    hidden: values.hidden === true && adapter === undefined,
    gradientName: (name) => (adapter ? fittedName(base, adapter.config, name) : name),
  });
  if (values.grads === true && !hasHead) {
    throw new InputError(modelFolder!, 'masked-LM head', 'there is none, so there is no loss', 'no --grads');
  }
  if (values.grads === true && counted === 0) {
    throw new InputError(inputsFile, 'labels', 'no position counts, so there is no loss', 'labels, -100 where ignored');
  }

  const device = await Device.create(await nodeGpu());
  const tensors = await loadParameters(device, model);
  if (adapter !== undefined) loadAdapter(device, model.options, adapter, adapterFolder!, tensors);
  const program = await Program.create(device, plan(graph, device.limits), tensors, new Arena(device));
  const results = await program.run({
    input_ids: batch.input_ids,
    position_ids: batch.position_ids,
    segments: batch.segment_ids,
    targets,
    token_type_ids: batch.token_type_ids,
    token_scale: Float32Array.of(counted > 0 ? 1 / counted : 0),
  });
  const written: TensorToWrite[] = outputs.map(({ name, shape }) => ({
    name,
    dtype: 'F32',
    shape,
    data: results.get(name) as Float32Array<ArrayBuffer>,
  }));
  await writeFileWhole(path.resolve(out), streamSafetensors(written));
  return 0;
}

interface ForwardBatch extends MicroBatch {
  readonly token_type_ids: Int32Array;
}

/** Inputs as a trainer has them. Positions count from the row's start, padding included, as transformers does by default. */
async function readBatch(file: TensorFile, options: ModelOptions): Promise<ForwardBatch> {
  const shape = file.tensors.get('input_ids')?.shape;
  if (shape?.length !== 2) {
    throw new InputError(
      file.name,
      'tensor input_ids',
      shape ? `its shape is [${shape}]` : 'it is missing',
      '[rows, tokens]',
    );
  }
  const [rows, length] = shape as [number, number];
  if (rows * length === 0 || length > options.max_position_embeddings) {
    const allowed = `1 to ${options.max_position_embeddings} tokens a row, by config.json`;
    throw new InputError(file.name, 'tensor input_ids', `its shape is [${shape}]`, allowed);
  }
  const whole = async (name: string, otherwise: number, least: number, most: number): Promise<Int32Array> => {
    const info = file.tensors.get(name);
    if (info === undefined) return new Int32Array(rows * length).fill(otherwise);
    const wrong = (what: string, allowed: string) => new InputError(file.name, `tensor ${name}`, what, allowed);
    if (String(info.shape) !== String(shape))
      throw wrong(`its shape is [${info.shape}]`, `[${shape}], that of input_ids`);
    const data = await file.read(name);
    return Int32Array.from(data as Int32Array, (value: number | bigint) => {
      const number = Number(value);
      if (!Number.isInteger(number) || ((number < least || number > most) && number !== otherwise)) {
        throw wrong(`it holds ${value}`, `whole numbers from ${least} to ${most}`);
      }
      return number;
    });
  };
  const last = options.vocab_size - 1;
  const types = isEncoder(options) ? (options.type_vocab_size ?? 1) : 1;
  return {
    rows,
    length,
    filled_rows: rows,
    input_ids: await whole('input_ids', 0, 0, last),
    labels: await whole('labels', -100, 0, last),
    segment_ids: await whole('attention_mask', 1, 0, 1),
    position_ids: Int32Array.from({ length: rows * length }, (_, index) => index % length),
    token_type_ids: await whole('token_type_ids', 0, 0, types - 1),
  };
}

interface NamedShape {
  readonly name: string;
  readonly shape: readonly number[];
}

/** The graph of what is asked for, and the outputs by the names that they are written with. */
function forwardGraph(
  options: ModelOptions,
  batch: MicroBatch,
  counts: boolean,
  adapter: Adapter | undefined,
  wanted: { gradients: boolean; hidden: boolean; gradientName: (name: string) => string },
): { graph: Graph; outputs: NamedShape[]; hasHead: boolean } {
  const graph = new Graph();
  const ids = (name: string): Value => graph.input(name, [batch.rows, batch.length], 'i32');
  const onModel = adapter && { settings: adapter.config, trainable: wanted.gradients };
  const trainBase = wanted.gradients && adapter === undefined;
  const choices = { adapter: onModel, trainable: () => trainBase };
  const { head, hidden_states } = languageModel(graph, options, ids, choices);
  const outputs: NamedShape[] = [];
  const output = (name: string, value: Value): void => {
    graph.output(name, value);
    outputs.push({ name, shape: numbers(value.type.shape) });
  };
  const last = hidden_states.at(-1)!;
  if (head) {
    output('logits', wholeLogits(head));
  } else output('last_hidden_state', last);
  if (wanted.hidden) hidden_states.forEach((value, index) => output(`hidden.${index}`, value));
  const targets = ids('targets');
  const scale = graph.input('token_scale', [1]);
  if (!counts || !head) return { graph, outputs, hasHead: head !== undefined };

  const attributes = {
    objective: 'none',
    temperature: 1,
    alpha: 0,
    tail: 'ignore',
    label_smoothing: 0,
    softcap: head.softcap,
    hiddenGradient: wanted.gradients,
    ...headGradients(graph, head),
  } as const;
  const { loss } = linearLoss(head.hidden, head.weight, targets, scale, attributes, undefined, head.bias);
  output('loss', loss);
  if (wanted.gradients) {
    const trained = graph.parameters().filter((parameter) => parameter.trainable);
    const one = graph.constant('one', [1], Float32Array.of(1));
    const found = gradients(
      graph,
      loss,
      one,
      trained.map((parameter) => parameter.value),
    );
    for (const { name, value } of trained) {
      const gradient = found.get(value);
      if (gradient !== undefined) output(`grad.${wanted.gradientName(name)}`, gradient);
    }
  }
  return { graph, outputs, hasHead: true };
}

/** A shape without symbols. */
const numbers = (shape: Shape): number[] => shape.map((dim) => dim as number);
