/**
 * `npm start -- bundled-teacher`: trains the bundled example's teacher from random weights with the studio's own engine, on
 * generated rows, and writes public/bundled/arithmetic/{config.json, generation_config.json, model.safetensors}. Test
 * rows are never among the training rows (data/arithmetic.ts).
 */
import path from 'node:path';
import { answerOf, arithmeticRows, type ArithmeticRow } from '../data/arithmetic.ts';
import { Batches } from '../data/batch.ts';
import { tokenizeRows } from '../data/tokenize.ts';
import { Device } from '../engine/run/device.ts';
import { exactMatch } from '../evaluate/exact-match.ts';
import { writeSafetensors } from '../formats/safetensors.ts';
import { readArchitecture } from '../models/architectures/index.ts';
import { fromScratch } from '../models/compress.ts';
import { Generator } from '../models/generate.ts';
import { baseParameters, countParameters } from '../models/model.ts';
import { loadParameters } from '../models/on-device.ts';
import { loadTokenizer } from '../models/tokenizer.ts';
import { CROSS_ENTROPY } from '../train/step-graphs.ts';
import { Trainer } from '../train/trainer.ts';
import { say, type Command, type Values } from './command.ts';
import { wholeNumber } from './flags.ts';
import { nodeFolder } from './node-files.ts';
import { nodeGpu } from './node-gpu.ts';
import { writeFileWhole } from './write-file.ts';

const FOLDER = 'public/bundled/arithmetic';
const SEED = 7;
const BATCH = 32;
const TEST_ROWS = 100;

const CONFIG = {
  architectures: ['LlamaForCausalLM'],
  model_type: 'llama',
  vocab_size: 64,
  hidden_size: 96,
  intermediate_size: 288,
  num_hidden_layers: 4,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  head_dim: 24,
  hidden_act: 'silu',
  max_position_embeddings: 128,
  rms_norm_eps: 1e-6,
  rope_theta: 10000,
  tie_word_embeddings: true,
  attention_bias: false,
  mlp_bias: false,
  initializer_range: 0.08,
  bos_token_id: 1,
  eos_token_id: 2,
  pad_token_id: 0,
  torch_dtype: 'float32',
};

export const command: Command = {
  usage: 'bundled-teacher [--steps N] [--rows N]',
  flags: { steps: { type: 'string' }, rows: { type: 'string' } },
  positionals: [0, 0],
  run,
};

async function run(_: string[], values: Values): Promise<number> {
  const steps = wholeNumber(values, 'steps', 1, 1_000_000) ?? 1600;
  const rowCount = wholeNumber(values, 'rows', BATCH, 1_000_000) ?? 20_000;
  const folder = nodeFolder(FOLDER);
  const tokenizer = await loadTokenizer(folder);
  const asRows = (rows: readonly ArithmeticRow[]) =>
    rows.map((row) => ({ messages: row.messages.map((message) => ({ ...message })) }));
  const rows = asRows(arithmeticRows(SEED, rowCount, 'train'));
  const settings = { max_length: 48, packing: false, assistant_only_loss: true, completion_only_loss: true };
  const order = Uint32Array.from(rows.keys());
  const tokenized = await tokenizeRows(rows, order, tokenizer, settings, 'generated rows');
  const batches = new Batches(tokenized.rows, {
    batch_size: BATCH,
    gradient_accumulation_steps: 1,
    shuffle: true,
    seed: SEED,
    packing: false,
    max_length: settings.max_length,
    pad_token_id: tokenizer.pad_token_id,
  });

  const device = await Device.create(await nodeGpu());
  const options = readArchitecture(CONFIG, 'config.json');
  const parameters = baseParameters(options);
  say(
    `${countParameters(parameters)} parameters, ${tokenized.rows.length} rows, batches of ${BATCH} x ${batches.lengths}`,
  );
  const weights = fromScratch(parameters, SEED, CONFIG);
  const trainer = await Trainer.create(
    {
      device,
      model: { options, adapter: null, trainable: () => true },
      objective: CROSS_ENTROPY,
      optimizer: { adam_beta1: 0.9, adam_beta2: 0.98, adam_epsilon: 1e-8, weight_decay: 0.01, max_grad_norm: 1 },
      schedule: {
        lr_scheduler_type: 'cosine',
        learning_rate: 3e-3,
        warmup_steps: Math.ceil(steps / 20),
        total_steps: steps,
      },
      seed: SEED,
      trainShapes: batches.lengths.map((length) => ({ rows: BATCH, length })),
      evalShapes: [],
    },
    (place) => loadParameters(device, { weights, parameters }, place),
  );

  const prompt = 20;
  const generator = await Generator.create(device, options, trainer.deviceTensors, {
    batch: TEST_ROWS,
    prompt,
    capacity: 96,
  });
  const questions = arithmeticRows(2, TEST_ROWS, 'test').map(({ messages: [user, assistant] }) => ({
    input_ids: tokenizer.encode(tokenizer.chat_template!.render([user], { add_generation_prompt: true }), {
      add_special_tokens: false,
    }),
    expected: answerOf(assistant.content),
  }));
  const measure = async (): Promise<number> => {
    const { figure, answers } = await exactMatch(generator, questions, {
      max_new_tokens: 48,
      eos_token_ids: [tokenizer.eos_token_id!],
      decode: (tokens) => tokenizer.decode(tokens),
      answerOf,
    });
    say(
      `  exact match ${figure.value.toFixed(3)} [${figure.low.toFixed(3)}, ${figure.high.toFixed(3)}], e.g. ${JSON.stringify(answers[0]!.text)}`,
    );
    return figure.value;
  };

  const start = performance.now();
  for (let step = 0; step < steps; step++) {
    const result = await trainer.submitStep(batches.step(step), []);
    if (result.step % 20 === 0) {
      const seconds = (performance.now() - start) / 1000;
      say(
        `step ${result.step} of ${steps}: loss ${result.loss.toFixed(4)}, accuracy ${result.mean_token_accuracy.toFixed(4)}, ${(seconds / result.step).toFixed(2)} s a step`,
      );
    }
    if (result.step % 250 === 0 || result.step === steps) {
      await measure();
      await write(await trainer.trained(), parameters);
    }
  }
  return 0;
}

async function write(
  trained: ReadonlyMap<string, Float32Array>,
  parameters: ReturnType<typeof baseParameters>,
): Promise<void> {
  const file = writeSafetensors(
    [...parameters].map(([name, shape]) => ({
      name,
      dtype: 'F32' as const,
      shape: shape as readonly number[],
      data: Float32Array.from(trained.get(name)!),
    })),
    { format: 'pt' },
  );
  const json = (value: object): Uint8Array => new TextEncoder().encode(`${JSON.stringify(value, null, 2)}\n`);
  await writeFileWhole(path.join(FOLDER, 'model.safetensors'), [file]);
  await writeFileWhole(path.join(FOLDER, 'config.json'), [json(CONFIG)]);
  await writeFileWhole(path.join(FOLDER, 'generation_config.json'), [
    json({ bos_token_id: 1, eos_token_id: 2, pad_token_id: 0 }),
  ]);
}
