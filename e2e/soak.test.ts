/**
 * A small run of everything (cached teacher, cut student, adapter with dropout, evaluation, export) in the real page: its
 * folder is whole, and five kills at random moments change no bit of it.
 */
import { cp, mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { afterAll, beforeAll, expect, inject, it } from 'vitest';
import { soak } from '../scripts/soak.mjs';
import { temporaryFolder } from './harness.ts';

let folder: string;

beforeAll(async () => {
  folder = await temporaryFolder('soak');
  const bundled = path.join(inject('root'), 'public/bundled/arithmetic');
  const firstLines = async (name: string, count: number) => {
    const lines = (await readFile(path.join(bundled, name), 'utf8')).split('\n');
    await writeFile(path.join(folder, name), `${lines.slice(0, count).join('\n')}\n`);
  };
  await firstLines('rows.jsonl', 24);
  await firstLines('test.jsonl', 4);
  // A model by path, so that the folder door of the bridge is used too.
  await mkdir(path.join(folder, 'teacher'));
  await cp(bundled, path.join(folder, 'teacher'), { recursive: true });
});
afterAll(() => rm(folder, { recursive: true, force: true }));

// Only Linux lists its processes as files.
it.runIf(process.platform === 'linux')('leaves the same bits after five kills', { timeout: 1_200_000 }, async () => {
  const recipe = path.join(folder, 'recipe.json');
  await writeFile(
    recipe,
    JSON.stringify({
      name: 'small',
      seed: 7,
      student: { model: './teacher', compress: { layers: [0, 3] } },
      teacher: { kind: 'engine', model: './teacher' },
      data: { source: './rows.jsonl', eval_fraction: 0.25, max_length: 48, assistant_only_loss: true },
      distill: { temperature: 2, alpha: 0.9, k: 8 },
      lora: { r: 4, lora_alpha: 8, lora_dropout: 0.1, target_modules: ['q_proj', 'v_proj'] },
      training: {
        per_device_train_batch_size: 3,
        per_device_eval_batch_size: 6,
        max_steps: 10,
        learning_rate: 1e-3,
        logging_steps: 1,
        eval_strategy: 'steps',
        eval_steps: 5,
        save_steps: 2,
        save_total_limit: 2,
        gradient_checkpointing: false,
      },
      evaluate: { tasks: [{ task: 'exact_match', source: './test.jsonl', max_new_tokens: 8 }] },
      export: { onnx: ['fp32', 'q8'], adapter: true },
    }),
  );
  const seed = Date.now() % 1_000_000;
  const { files, differing } = await soak({ recipe, kills: 5, seed });
  expect(files).toEqual(
    expect.arrayContaining([
      'adapter/adapter_model.safetensors',
      'metrics.jsonl',
      'model/config.json',
      'model/onnx/model.onnx',
      'model/onnx/model_quantized.onnx',
      'model/tokenizer.json',
      'recipe.json',
    ]),
  );
  expect(differing, `seed ${seed}`).toEqual([]);
});
