/**
 * The whole job on a real model: ten of SmolLM2's thirty layers learn from all thirty on rows of GSM8K, die once on the way, and
 * leave a folder from which transformers.js writes the engine's own greedy tokens. A pass of the whole model is 270 MFLOP a
 * token and the adapter does a few GFLOP a second: eight rows, four steps.
 */
import { existsSync } from 'node:fs';
import { readFile, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { env, pipeline, type Message, type Tensor } from '@huggingface/transformers';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { realModel } from '../scripts/real-models.mjs';
import type { MetricsLine, Report } from '../src/job/protocol.ts';
import { expectGreedy } from './greedy.ts';
import { startCommand, temporaryFolder } from './harness.ts';

const questions = '../shared/data/gsm8k/train.jsonl';
const model = existsSync(questions) ? realModel('smollm2') : undefined;
const NEW_TOKENS = 24;

describe.skipIf(model === undefined)('SmolLM2-135M on GSM8K (skipped without them)', () => {
  let folder: string;
  beforeAll(async () => void (folder = await temporaryFolder('real')));
  afterAll(() => rm(folder, { recursive: true, force: true, maxRetries: 5 }));

  it('is cut, distilled, resumed, merged, exported, and writes', { timeout: 1_800_000 }, async () => {
    const rows = (await readFile(questions, 'utf8')).split('\n').slice(0, 8);
    await writeFile(path.join(folder, 'rows.jsonl'), `${rows.join('\n')}\n`);
    const recipe = path.join(folder, 'recipe.json');
    await writeFile(
      recipe,
      JSON.stringify({
        name: 'smollm2-gsm8k',
        student: { model, compress: { num_hidden_layers: 10, init: 'even' } },
        teacher: { kind: 'engine', model },
        data: { source: './rows.jsonl', eval_fraction: 0.25, max_length: 256, assistant_only_loss: true },
        distill: { temperature: 2, alpha: 0.5, k: 32 },
        lora: { r: 8, lora_alpha: 16, target_modules: ['q_proj', 'v_proj'] },
        training: {
          per_device_train_batch_size: 1,
          per_device_eval_batch_size: 1,
          max_steps: 4,
          learning_rate: 5e-3,
          logging_steps: 1,
          eval_strategy: 'steps',
          eval_steps: 2,
          save_steps: 1,
        },
        evaluate: { tasks: [] },
        export: { onnx: ['fp32'], adapter: true, safetensors: true },
      }),
    );
    const out = path.join(folder, 'out');
    const metrics = async () =>
      (await readFile(path.join(out, 'metrics.jsonl'), 'utf8').catch(() => ''))
        .split('\n')
        .filter((line) => line.endsWith('}'))
        .map((line) => JSON.parse(line) as MetricsLine);

    const first = startCommand(['run', recipe, '--out', out]);
    const watch = setInterval(async () => {
      if ((await metrics()).some(({ step, loss }) => step === 2 && loss !== undefined)) first.child.kill('SIGKILL');
    }, 500);
    const { code, stderr } = await first.ended;
    clearInterval(watch);
    expect(code, stderr).toBe(null);
    const second = await startCommand(['run', recipe, '--out', out, '--resume']).ended;
    expect(second.code, second.stderr).toBe(0);

    const report = JSON.parse(await readFile(path.join(out, 'report.json'), 'utf8')) as Report;
    expect(report.data).toMatchObject({ read: 8, kept: 8, dropped: [], train_rows: 6, eval_rows: 2 });
    expect(report.train.steps).toBe(4);
    expect(report.train.eval_loss_after!).toBeLessThan(report.train.eval_loss_before!);
    expect(report.train.planned_bytes / report.train.measured_bytes).toBeCloseTo(1, 1);
    const losses = (await metrics()).flatMap(({ step, loss }) => (loss === undefined ? [] : [step]));
    expect(losses).toEqual([1, 2, 3, 4]);
    expect(report.history.map(({ what }) => what)).toContain('resumed');

    await expectEnginesTokens(out);
  });

  /** What transformers.js writes is, at every place, the largest of the engine's logits. */
  async function expectEnginesTokens(out: string): Promise<void> {
    env.localModelPath = `${out}/`;
    env.allowRemoteModels = false;
    const write = await pipeline('text-generation', 'model');
    const chat: Message[] = [{ role: 'user', content: 'A robe takes 2 bolts of blue fiber. How many for 3 robes?' }];
    const { input_ids, attention_mask } = write.tokenizer.apply_chat_template(chat, {
      add_generation_prompt: true,
      return_dict: true,
    }) as { input_ids: Tensor; attention_mask: Tensor };
    const prompt = (input_ids.tolist() as bigint[][])[0]!.map(Number);
    const options = { max_new_tokens: NEW_TOKENS, do_sample: false };
    const written = (await write.model.generate({ inputs: input_ids, attention_mask, ...options } as never)) as Tensor;
    const ids = (written.tolist() as bigint[][])[0]!.map(Number);
    const [answer] = await write(chat, options);
    const text = write.tokenizer.decode(ids.slice(prompt.length), { skip_special_tokens: true });
    expect((answer!.generated_text as Message[]).at(-1)!.content).toBe(text);
    await write.dispose();

    await expectGreedy(path.join(out, 'model'), ids, prompt.length);
  }
});
