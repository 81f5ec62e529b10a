/** A model on a device that binds less than its embedding: loaded, asked for logits and answers, and a teacher. */
import { expect, it } from 'vitest';
import { nodeGpu } from '../cli/node-gpu.ts';
import { sizeOf } from '../engine/graph/types.ts';
import { Device } from '../engine/run/device.ts';
import { noise, testDevice } from '../engine/testing.ts';
import type { TensorFile } from '../formats/tensor-file.ts';
import { Generator } from '../models/generate.ts';
import { sequenceLogits } from '../models/logits.ts';
import { baseParameters } from '../models/model.ts';
import { loadParameters } from '../models/on-device.ts';
import { EngineTeacher } from '../teacher/capture.ts';
import { options as small, shape } from '../train/testing.ts';

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

async function all(device: Device, held?: ReadonlyMap<string, 'f16' | 'int8'>) {
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
  const said = await teacher.logits({ ...shape, input_ids: ids, position_ids: positions, segment_ids: segments });
  teacher.free();
  for (const tensor of tensors.values()) device.freeTensor(tensor);
  const pieces = tensors.get('model.embed_tokens.weight')!.pieces.length;
  return { pieces, numbers: { logits, answers, said } };
}

it.each([
  ['f32', 7],
  ['f16', 3],
  ['int8', 2],
] as const)(
  'gives the same logits, answers and top-k where the embedding lies in windows, as %s',
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
