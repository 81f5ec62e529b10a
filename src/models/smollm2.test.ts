/**
 * A real model against PyTorch (../shared/reference/smollm2/expected.json): SmolLM2-135M-Instruct from its GGUF of 4-bit blocks.
 * Logits within 2e-3 of logits around 30: seven digits through thirty layers in another order of sums.
 */
import { existsSync, readFileSync } from 'node:fs';
import { beforeAll, describe, expect, it } from 'vitest';
import { realModel } from '../../scripts/real-models.mjs';
import { nodeFolder } from '../cli/node-files.ts';
import { testDevice } from '../engine/testing.ts';
import type { Device, DeviceTensor } from '../engine/run/device.ts';
import { Generator } from './generate.ts';
import { sequenceLogits } from './logits.ts';
import { openModel, type Model } from './model.ts';
import { loadParameters } from './on-device.ts';
import { loadTokenizer, type Tokenizer } from './tokenizer.ts';

interface Expected {
  readonly prompts: readonly {
    readonly input_ids: readonly number[];
    readonly top_ids: readonly number[];
    readonly top_logits: readonly number[];
    readonly logsumexp: number;
    readonly greedy: readonly number[];
  }[];
  readonly rows: readonly { readonly question: string; readonly tokens: number; readonly loss: number }[];
}

const answers = '../shared/reference/smollm2/expected.json';
const questions = '../shared/data/gsm8k/test.jsonl';
const folder = existsSync(answers) && existsSync(questions) ? realModel('smollm2') : undefined;

/** In float64, of one place's logits. */
function logsumexp(logits: Float32Array): number {
  const largest = logits.reduce((a, b) => Math.max(a, b));
  return largest + Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit - largest), 0));
}

// A billion multiply-adds for four tokens: minutes on a software adapter.
describe.skipIf(folder === undefined)('SmolLM2-135M-Instruct (skipped without it)', { timeout: 900_000 }, () => {
  let device: Device;
  let model: Model;
  let tokenizer: Tokenizer;
  let tensors: Map<string, DeviceTensor>;
  const expected = () => JSON.parse(readFileSync(answers, 'utf8')) as Expected;
  const places = (logits: Float32Array) =>
    Array.from({ length: logits.length / model.options.vocab_size }, (_, t) =>
      logits.subarray(t * model.options.vocab_size, (t + 1) * model.options.vocab_size),
    );

  beforeAll(async () => {
    device = await testDevice();
    model = await openModel(nodeFolder(folder!));
    tokenizer = await loadTokenizer(model.folder, { vocab_size: model.options.vocab_size });
    tensors = await loadParameters(device, model);
  }, 300_000);

  it('gives PyTorch’s logits of the next token, and its greedy answers', async () => {
    const { prompts } = expected();
    for (const { input_ids, top_ids, top_logits, logsumexp: wanted } of prompts) {
      const [{ logits } = { logits: new Float32Array() }] = await sequenceLogits(device, model.options, tensors, [
        input_ids,
      ]);
      const next = places(logits).at(-1)!;
      top_ids.forEach((id, i) => expect(Math.abs(next[id]! - top_logits[i]!)).toBeLessThan(2e-3));
      expect(Math.abs(logsumexp(next) - wanted)).toBeLessThan(2e-3);
    }
    const longest = Math.max(...prompts.map(({ input_ids }) => input_ids.length));
    const written = Math.max(...prompts.map(({ greedy }) => greedy.length));
    const shape = { batch: prompts.length, prompt: longest, capacity: longest + written };
    const generator = await Generator.create(device, model.options, tensors, shape);
    const got = await generator.generate(
      prompts.map(({ input_ids }) => input_ids),
      { max_new_tokens: written, eos_token_ids: [tokenizer.eos_token_id!], temperature: 0, top_p: 1, seed: 1 },
    );
    generator.free();
    prompts.forEach(({ greedy }, i) => expect(got[i]!.slice(0, greedy.length)).toEqual(greedy));
  });

  it('gives PyTorch’s loss on rows of GSM8K in its chat template', async () => {
    const rows = readFileSync(questions, 'utf8')
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line) as { question: string; answer: string });
    for (const { question, tokens, loss } of expected().rows) {
      const { answer } = rows.find((row) => row.question === question)!;
      const text = tokenizer.chat_template!.render([
        { role: 'user', content: question },
        { role: 'assistant', content: answer },
      ]);
      const ids = tokenizer.encode(text, { add_special_tokens: false });
      expect(ids).toHaveLength(tokens);
      const [{ logits } = { logits: new Float32Array() }] = await sequenceLogits(device, model.options, tensors, [ids]);
      const found = places(logits).slice(0, -1);
      const sum = found.reduce((total, place, t) => total + logsumexp(place) - place[ids[t + 1]!]!, 0);
      expect(Math.abs(sum / found.length - loss)).toBeLessThan(1e-4);
    }
  });
});
