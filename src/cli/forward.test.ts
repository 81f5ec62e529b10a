/** `forward` against PyTorch, transformers and peft: logits, loss, hidden states, every gradient, with and without adapter. */
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, it } from 'vitest';
import { openSafetensors, writeSafetensors, type TensorToWrite } from '../formats/safetensors.ts';
import type { TensorData } from '../formats/tensor-file.ts';
import { forward } from './forward.ts';
import { nodeFile } from './node-files.ts';

const REFERENCE = path.resolve('../shared/reference');
const folders: string[] = [];
afterAll(() => Promise.all(folders.map((folder) => rm(folder, { recursive: true }))));

/** Largest difference that a tensor may show, over its largest entry: what the project promises of float32. */
const TOLERANCE = 2e-4;

/**
 * Its gradient is zero where positions are not rotary: what is the same for all keys moves no softmax. PyTorch in float64
 * has 1e-17 of the steepest there, in float32 7e-9, and other 7e-9 with another number of threads. So it is held to zero
 * and not to that noise.
 */
const KEY_BIAS = /\.(key|k_lin)\.bias$/;

for (const name of ['llama', 'qwen2', 'gpt2', 'bert', 'distilbert']) {
  const folder = path.join(REFERENCE, name);
  const there = existsSync(folder);
  if (!there) console.warn(`skipped: there is no ${folder}`);
  // each compiles its kernels: half a minute where the processor is shared
  describe.skipIf(!there)(name, { timeout: 120_000 }, () => {
    it('computes what PyTorch does', async () => compare(folder, folder, ['--hidden']));
    it('computes what PyTorch does, with an adapter', async () =>
      compare(folder, path.join(folder, 'lora'), ['--adapter', path.join(folder, 'lora')]));
  });
}

/**
 * Tiny models with adapters that peft 0.21 wrote; logits, loss and gradients, under PEFT's names, by torch 2.15:
 *   modules-to-save  a tied Qwen2, bias "all", embed_tokens and lm_head saved whole, which are two weights then
 *   head-pair        a tied Llama, a pair on lm_head, whose weight peft saved too; layers_to_transform, exclude_modules
 *   head-dora        a tied Llama, DoRA with rank stabilisation on lm_head and q_proj
 *   lora-bias        a GPT-2, biases of B beside those of the layers with a pair
 *   masked-head      a BERT with a head of its own, saved whole: its bias is in the file under two names
 *   tied-masked-head a tied BERT, its head saved whole, bias "all": PyTorch names the bias by its first module
 *   masked-head-dora a tied BERT, DoRA on the decoder of its head
 */
const FIXTURES = [
  'modules-to-save',
  'head-pair',
  'head-dora',
  'lora-bias',
  'masked-head',
  'tied-masked-head',
  'masked-head-dora',
];
describe.each(FIXTURES)('an adapter by peft: %s', (fixture) => {
  it('computes what PyTorch does', { timeout: 120_000 }, async () => {
    const folder = await mkdtemp(path.join(tmpdir(), 'stillroom-'));
    folders.push(folder);
    const from = fileURLToPath(new URL(`${fixture}.fixture.safetensors`, import.meta.url));
    const file = await openSafetensors(await nodeFile(from));
    const part = async (to: string, belongs: (stored: string) => string | undefined): Promise<void> => {
      const tensors: (TensorToWrite & { data: TensorData })[] = [];
      for (const [stored, { dtype, shape }] of file.tensors) {
        const name = belongs(stored);
        if (name !== undefined) tensors.push({ name, dtype, shape, data: await file.read(stored) });
      }
      await mkdir(path.dirname(path.join(folder, to)), { recursive: true });
      await writeFile(path.join(folder, to), writeSafetensors(tensors));
    };
    const after = (prefix: string) => (name: string) =>
      name.startsWith(prefix) ? name.slice(prefix.length) : undefined;
    await part('model.safetensors', (name) => (/^(base_model|expected|input)\./.test(name) ? undefined : name));
    await part('lora/adapter_model.safetensors', (name) => (name.startsWith('base_model.') ? name : undefined));
    await part('lora/expected.safetensors', after('expected.'));
    await part('inputs.safetensors', after('input.'));
    await writeFile(path.join(folder, 'config.json'), file.metadata.config!);
    await writeFile(path.join(folder, 'lora/adapter_config.json'), file.metadata.adapter_config!);
    await compare(folder, path.join(folder, 'lora'), ['--adapter', path.join(folder, 'lora')]);
  });
});

async function compare(model: string, expected: string, [flag, value]: string[]): Promise<void> {
  const out = path.join(await mkdtemp(path.join(tmpdir(), 'stillroom-')), 'out.safetensors');
  folders.push(path.dirname(out));
  const inputs = path.join(model, 'inputs.safetensors');
  const flags = { inputs, out, grads: true, [flag!.slice(2)]: value ?? true };
  await forward([model], flags);
  const got = await openSafetensors(await nodeFile(out));
  const wanted = await openSafetensors(await nodeFile(path.join(expected, 'expected.safetensors')));
  const mask = Array.from(
    (await (await openSafetensors(await nodeFile(inputs))).read('attention_mask')) as BigInt64Array,
  );
  const tensors = new Map<string, { wanted: Float32Array; got: Float32Array }>();
  for (const name of wanted.tensors.keys()) {
    if (name === 'merged.logits') continue;
    tensors.set(name, { wanted: await wanted.readF32(name), got: await got.readF32(name) });
  }
  const largest = (values: Float32Array): number => values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  for (const [name, { wanted, got }] of tensors) {
    expect(got.length, name).toBe(wanted.length);
    const each = wanted.length / mask.length;
    // nobody says what is at a padded place
    const counts = /^(logits|hidden\.)/.test(name) ? (i: number) => mask[Math.floor(i / each)] !== 0n : () => true;
    if (KEY_BIAS.test(name)) {
      expect(largest(got), name).toBe(0);
      continue;
    }
    const scale = largest(wanted);
    const difference = largest(wanted.map((value, i) => (counts(i) ? value - got[i]! : 0)));
    expect(difference / scale, name).toBeLessThanOrEqual(TOLERANCE);
  }
}
