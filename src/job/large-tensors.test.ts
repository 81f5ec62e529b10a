/**
 * Models on a device that binds less than their largest tensors: loaded, asked for logits and answers, and a teacher; and
 * whole runs, paused and gone on with, whose files are those of a device that binds everything.
 */
import { expect, it } from 'vitest';
import { nodeGpu } from '../cli/node-gpu.ts';
import type { PackedDType } from '../engine/graph/packing.ts';
import { sizeOf } from '../engine/graph/types.ts';
import { Device } from '../engine/run/device.ts';
import { noise, testDevice } from '../engine/testing.ts';
import { readAll } from '../formats/byte-source.ts';
import type { TensorFile } from '../formats/tensor-file.ts';
import { Generator } from '../models/generate.ts';
import { sequenceLogits } from '../models/logits.ts';
import { baseParameters } from '../models/model.ts';
import { loadParameters } from '../models/on-device.ts';
import { EngineTeacher } from '../teacher/capture.ts';
import type { RecipeInput } from '../recipe/schema.ts';
import { options as small, shape } from '../train/testing.ts';
import { fewRows, memoryHost, testRun } from './testing.ts';

const options = {
  ...small,
  vocab_size: 400,
  hidden_size: 256,
  num_hidden_layers: 1,
  head_dim: 64,
  intermediate_size: 160,
};
const parameters = baseParameters(options);
const readF32 = async (name: string): Promise<Float32Array<ArrayBuffer>> => {
  const shape = parameters.get(name)!;
  const seed = [...parameters.keys()].indexOf(name);
  return noise(sizeOf(shape), seed).map((x) =>
    shape.length === 1 ? 1 + 0.1 * x : 0.2 * x,
  ) as Float32Array<ArrayBuffer>;
};
const weights = { name: 'noise', tensors: new Map(), metadata: {}, read: readF32, readF32 } satisfies TensorFile;
const ids = Int32Array.from({ length: 64 }, (_, i) => (i * 37) % 400);
const sequences = [[5, 399, 17, 230, 8], Array.from({ length: 45 }, (_, i) => (37 * i) % 400)];

async function all(device: Device, held?: ReadonlyMap<string, PackedDType>) {
  const model = { ...options, held };
  const tensors = await loadParameters(device, { weights, parameters, options: model });
  const logits = await sequenceLogits(device, model, tensors, sequences);
  const generator = await Generator.create(device, model, tensors, { batch: 2, prompt: 5, capacity: 16 });
  const prompts = [
    [5, 399, 17],
    [230, 8, 1, 2, 3],
  ];
  const answers = await generator.generate(prompts, {
    max_new_tokens: 8,
    eos_token_ids: [],
    temperature: 0,
    top_p: 1,
    seed: 0,
  });
  generator.free();
  const teacher = new EngineTeacher(device, model, tensors, { k: 5, temperatures: [1, 2] });
  const positions = Int32Array.from(ids, (_, i) => i % shape.length);
  const segments = new Int32Array(64).fill(1);
  const inputs = { ...shape, input_ids: ids, position_ids: positions, segment_ids: segments };
  const said = await teacher.logits(inputs);
  teacher.free();
  const sampler = new EngineTeacher(device, model, tensors, { entries: 'sampling', k: 5, temperatures: [1, 2] });
  const points = Float32Array.from({ length: 5 * ids.length }, (_, i) => ((i % 5) + 0.4) / 5);
  const drawn = await sampler.logits({ ...inputs, points });
  sampler.free();
  for (const tensor of tensors.values()) device.freeTensor(tensor);
  const pieces = tensors.get('model.embed_tokens.weight')!.pieces.length;
  return { pieces, numbers: { logits, answers, said, drawn } };
}

it.each([
  ['f32', 7],
  ['f16', 3],
  ['int8', 2],
  ['int8_64', 2],
  ['uint8_32', 2],
] as const)(
  'gives the same logits, answers, top-k and draws where the embedding lies in windows, as %s',
  async (dtype, pieces) => {
    const limits = { maxStorageBufferBindingSize: 104 * 2 ** 10, maxBufferSize: 104 * 2 ** 10 };
    const device = await Device.create(await nodeGpu(), limits);
    const held = dtype === 'f32' ? undefined : new Map([['model.embed_tokens.weight', dtype]]);
    const [wanted, got] = [await all(await testDevice(), held), await all(device, held)];
    expect([wanted.pieces, got.pieces]).toEqual([1, pieces]);
    expect(got.numbers).toEqual(wanted.numbers);
    device.destroy();
  },
  300_000,
);

/** Its MLPs' weights are of 110,592 bytes: two windows each, and so are their gradients and moments. */
const recipe: RecipeInput = {
  name: 'tiny',
  seed: 3,
  student: { model: './arithmetic', compress: { layers: [0] } },
  teacher: { kind: 'none' },
  data: { source: './few.jsonl', eval_fraction: 0.33, max_length: 48 },
  distill: { objective: 'none', alpha: 0 },
  training: {
    per_device_train_batch_size: 1,
    per_device_eval_batch_size: 1,
    max_steps: 2,
    // the norm of all gradients is added up shard by shard, and a tensor in windows is one by itself
    max_grad_norm: 0,
    eval_strategy: 'no',
    save_steps: 1,
  },
  export: { onnx: ['fp32'], safetensors: true, adapter: true },
};
const lora = { r: 2, lora_alpha: 4, use_dora: true, lora_dropout: 0.1, target_modules: ['v_proj', 'down_proj'] };

it.each([
  ['all weights, by 8-bit AdamW', { lora: null, training: { ...recipe.training, optim: 'adamw_8bit' } }],
  ['a DoRA adapter', { lora }],
] satisfies [string, Partial<RecipeInput>][])(
  'trains, pauses, goes on, merges and exports the same where weights lie in windows: %s',
  async (_, more) => {
    const results = [];
    for (const maxStorageBufferBindingSize of [2 ** 27, 80_000]) {
      const host = await memoryHost(undefined, { maxStorageBufferBindingSize });
      const run = await testRun(host, { ...recipe, ...more }, fewRows(12));
      if (results.length > 0) {
        const first = await run.sit((event, active) => {
          if (event.kind === 'checkpoint' && event.step === 1) active.asked = 'paused';
        });
        expect(first.at(-1)).toMatchObject({ kind: 'paused' });
      }
      const done = (await run.sit()).at(-1)!;
      expect(host.devices[0]!.limits.maxStorageBufferBindingSize).toBe(maxStorageBufferBindingSize);
      if (done.kind !== 'done') throw new Error(JSON.stringify(done));
      // by ONNX Runtime against the engine, of the largest logit
      const onnx = done.report.export.files.find(({ path }) => path.endsWith('model.onnx'))!;
      expect(onnx.max_logit_difference).toBeLessThan(1e-4);
      const weights = (await run.out.list()).filter((path) => /\.(onnx|safetensors)$/.test(path));
      const files = new Map<string, string>();
      for (const path of weights)
        files.set(path, Buffer.from(await readAll((await run.out.open(path))!)).toString('base64'));
      results.push({ files, loss: done.report.train.eval_loss_after });
      host.devices.forEach((device) => device.destroy());
    }
    expect(results[0]!.files.size).toBe(more.lora ? 3 : 2);
    expect(results[1]).toEqual(results[0]);
  },
  1_200_000,
);
