/**
 * vLLM serves an exported folder by the command of its model card: it renders the same prompt, writes the engine's greedy
 * tokens, and as a teacher says the engine's log probabilities. In float32; by itself it rounds weights to 16 bits.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { realModel } from '../../scripts/real-models.mjs';
import { serveWithVllm, vllmCommand } from '../../scripts/vllm.mjs';
import { nodeFile, nodeFolder } from '../cli/node-files.ts';
import { writeFileWhole } from '../cli/write-file.ts';
import { testDevice } from '../engine/testing.ts';
import { compress } from '../models/compress.ts';
import { sequenceLogits } from '../models/logits.ts';
import { openModel } from '../models/model.ts';
import { loadParameters } from '../models/on-device.ts';
import { loadTokenizer } from '../models/tokenizer.ts';
import { EndpointTeacher } from '../teacher/endpoint/endpoint-teacher.ts';
import { exportModel } from './export-model.ts';
import { ort } from './export.testing.ts';

/** Of a log probability: both compute in float32, in another order. */
const TOLERANCE = 1e-3;
const K = 8;

const command = vllmCommand();
const smollm2 = command === undefined ? undefined : realModel('smollm2');

describe.skipIf(smollm2 === undefined)('vLLM and the engine (skipped without vLLM and SmolLM2)', () => {
  it('say the same of two layers of SmolLM2', { timeout: 900_000 }, async () => {
    const folder = await mkdtemp(path.join(tmpdir(), 'stillroom-vllm-'));
    onTestFinished(() => rm(folder, { recursive: true }));
    const model = compress(await openModel(nodeFolder(smollm2!)), { layers: [0, 29], init: 'even' }, 1, 'recipe');
    await exportModel({
      model,
      dtypes: [],
      safetensors: true,
      card: { title: 'model', distilled: false },
      out: {
        write: (name, content) =>
          writeFileWhole(path.join(folder, name), content instanceof Uint8Array ? [content] : content),
        open: (name) => nodeFile(path.join(folder, name)),
      },
      ort,
      reference: [],
    });
    const more = ['--dtype', 'float32', '--served-model-name', 'student'];
    const { url, close } = await serveWithVllm(command!, folder, more);
    onTestFinished(close);

    const messages = [{ role: 'user', content: 'Which word comes first, “apple” or “Äpfel”? 1 + 2 = 3.' }];
    const response = await fetch(`${url}/chat/completions`, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify({ model: 'student', messages, max_tokens: 16, temperature: 0, return_token_ids: true }),
    });
    const theirs = (await response.json()) as { prompt_token_ids: number[]; choices: [{ token_ids: number[] }] };
    const { vocab_size } = model.options;
    const tokenizer = await loadTokenizer(nodeFolder(folder), { vocab_size });
    const prompt = tokenizer.chat_template!.render(messages, { add_generation_prompt: true });
    const ids = tokenizer.encode(prompt, { add_special_tokens: false });
    expect(theirs.prompt_token_ids).toEqual(ids);

    const written = theirs.choices[0].token_ids;
    expect(written).toHaveLength(16);
    const row = Int32Array.from([...ids, ...written]);
    const device = await testDevice();
    const [answer] = await sequenceLogits(device, model.options, await loadParameters(device, model), [[...row]]);
    const ours = (t: number) => logSoftmax(answer!.logits.subarray(t * vocab_size, (t + 1) * vocab_size));
    written.forEach((id, i) => {
      const logprobs = ours(ids.length - 1 + i);
      expect(logprobs.indexOf(logprobs.reduce((a, b) => Math.max(a, b)))).toBe(id);
    });

    const access = { headers: {}, through: (address: string) => address };
    const teacher = await EndpointTeacher.open({ url, model: 'student' }, access, { k: K, tokenizer, rows: [row] });
    expect(teacher.kind).toBe('vLLM');
    const positions = [...row.keys()].slice(0, -1);
    const said = await teacher.logprobs(row, positions);
    positions.forEach((t) => {
      const logprobs = ours(t);
      const largest = [...logprobs].sort((a, b) => b - a);
      for (let i = 0; i < K; i++) {
        expect(Math.abs(said.logprobs[t * K + i]! - largest[i]!)).toBeLessThan(TOLERANCE);
        expect(Math.abs(said.logprobs[t * K + i]! - logprobs[said.ids[t * K + i]!]!)).toBeLessThan(TOLERANCE);
      }
    });
  });
});

function logSoftmax(logits: Float32Array): Float64Array {
  const largest = logits.reduce((a, b) => Math.max(a, b));
  const sum = logits.reduce((total, logit) => total + Math.exp(logit - largest), 0);
  return Float64Array.from(logits, (logit) => logit - largest - Math.log(sum));
}
