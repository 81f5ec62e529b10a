import { describe, expect, it } from 'vitest';
import { readAdapter } from '../formats/peft.ts';
import { openSafetensors } from '../formats/safetensors.ts';
import { MemorySource } from '../formats/byte-source.ts';
import { exportModel, type ExportOptions } from './export-model.ts';
import {
  fixtureLogits,
  fixtureModel,
  hasReference,
  MemorySink,
  ort,
  referenceFolder,
  referenceLogits,
  referenceModel,
} from './export.testing.ts';
import type { WeightSource } from './merge.ts';
import { heldOutLoss } from './verify/held-out.ts';

const card = { title: 'tiny', distilled: false };

async function exported(name: string, options: Partial<ExportOptions> = {}) {
  const sink = new MemorySink();
  const done = await exportModel({
    model: await referenceModel(name),
    dtypes: ['fp32'],
    card,
    out: sink,
    ort,
    reference: await referenceLogits(name),
    ...options,
  });
  return { sink, done };
}

it('writes soft-capped scores and logits so that onnxruntime-web gives PyTorch’s logits of Gemma 2', async () => {
  const { files } = await exportModel({
    model: await fixtureModel('gemma2'),
    dtypes: ['fp32', 'fp16'],
    card,
    out: new MemorySink(),
    ort,
    reference: await fixtureLogits('gemma2'),
  });
  expect(files[0]!.max_logit_difference).toBeLessThan(2e-6);
  expect(files[1]!.max_logit_difference).toBeLessThan(5e-3);
});

describe.skipIf(!hasReference('llama'))('exportModel', () => {
  it('writes every dtype so that onnxruntime-web gives the reference’s logits: whole, cached, padded', async () => {
    const { done, sink } = await exported('llama', {
      dtypes: ['fp32', 'fp16', 'q8', 'q4', 'q4f16'],
      safetensors: true,
    });
    const by = new Map(done.files.map((file) => [file.dtype, file]));
    expect(by.get('fp32')!.max_logit_difference).toBeLessThan(2e-6);
    expect(by.get('fp16')!.max_logit_difference).toBeLessThan(2e-3);
    expect(by.get('q8')!.max_logit_difference).toBeLessThan(3e-2);
    expect(by.get('q4')!.max_logit_difference).toBeLessThan(2e-1);
    expect(by.get('q4f16')!.max_logit_difference).toBeLessThan(2e-1);
    expect(by.get('q8')!.top1_agreement).toBeGreaterThan(0.9);
    for (const { path, bytes } of done.files) expect(sink.files.get(path)!.length, path).toBe(bytes);
    // the embedding too: a file of bytes is not far above a quarter
    expect(by.get('q8')!.bytes).toBeLessThan(0.5 * by.get('fp32')!.bytes);
    expect(done.notes.map(({ kind }) => kind)).toEqual(['no-tokenizer']);
    const weights = await openSafetensors(new MemorySource('model', sink.files.get('model.safetensors')!));
    const original = (await referenceModel('llama')).weights;
    expect([...weights.tensors.keys()].sort()).toEqual([...original.tensors.keys()].sort());
    expect(await weights.readF32('model.norm.weight')).toEqual(await original.readF32('model.norm.weight'));
  });

  it('merges an adapter', async () => {
    const adapter = await readAdapter(referenceFolder('llama/lora'));
    const { done } = await exported('llama', {
      adapters: [{ name: 'lora', adapter }],
      reference: await referenceLogits('llama', 'lora'),
    });
    // merged against unmerged in float32: 1.4e-5 in PyTorch itself
    expect(done.files[0]!.max_logit_difference).toBeLessThan(2e-5);
  });

  it.skipIf(!hasReference('gpt2'))('writes GPT-2 and merges into its [in, out] weights', async () => {
    const adapter = await readAdapter(referenceFolder('gpt2/lora'));
    const { done, sink } = await exported('gpt2', {
      adapters: [{ name: 'lora', adapter }],
      dtypes: ['fp32', 'q8'],
      safetensors: true,
      reference: await referenceLogits('gpt2', 'lora'),
    });
    const by = new Map(done.files.map((file) => [file.dtype, file]));
    expect(by.get('fp32')!.max_logit_difference).toBeLessThan(2e-5);
    expect(by.get('q8')!.max_logit_difference).toBeLessThan(5e-2);
    const weights = await openSafetensors(new MemorySource('model', sink.files.get('model.safetensors')!));
    expect([...weights.tensors.keys()].sort()).toEqual(
      [...(await referenceModel('gpt2')).weights.tensors.keys()].sort(),
    );
  });

  it('measures each precision on held-out rows, beside the engine’s own loss', async () => {
    const reference = await referenceLogits('llama');
    const rows = reference.map(({ input_ids }) => ({ input_ids, labels: [-100, ...input_ids.slice(1)] }));
    const logits = reference.map((one) => one.logits);
    const loss = heldOutLoss(rows, logits);
    const { done, sink } = await exported('llama', { dtypes: ['fp32', 'q8', 'q4'], heldOut: { rows, loss } });
    const cost = done.files.map((file) => Math.abs(file.eval_loss_after! - file.eval_loss_before!));
    expect(done.files.map((file) => file.eval_loss_before)).toEqual([loss, loss, loss]);
    expect(cost[0]).toBeLessThan(1e-5);
    expect(cost[1]).toBeGreaterThan(1e-5);
    expect(cost[1]).toBeLessThan(0.05);
    expect(cost[2]).toBeLessThan(0.5);
    expect(sink.text('README.md')).toContain(`${loss.toFixed(4)} → ${done.files[1]!.eval_loss_after!.toFixed(4)}`);
  });

  it('keeps large tensors beside the model where asked', async () => {
    const { done, sink } = await exported('llama', { external: { externalAbove: 1000, chunkBytes: 150_000 } });
    const data = done.files.filter(({ path }) => path.includes('_data'));
    expect(data.map(({ path }) => path)).toEqual([
      'onnx/model.onnx_data',
      'onnx/model.onnx_data_1',
      'onnx/model.onnx_data_2',
    ]);
    for (const { bytes } of data) expect(bytes).toBeLessThanOrEqual(150_000);
    expect(done.files[0]!.max_logit_difference).toBeLessThan(2e-6);
    expect(sink.json('config.json')['transformers.js_config']).toEqual({
      dtype: 'fp32',
      use_external_data_format: { 'model.onnx': 3 },
    });
  });

  it('fails where a file is not the engine’s model, and names the first operator that differs', async () => {
    const model = await referenceModel('llama');
    // the file gets one weight wrong each time it is written; the judge reads it right
    let reads = 0;
    const name = 'model.layers.1.mlp.down_proj.weight';
    const weights: WeightSource = {
      name: 'wrong',
      tensors: model.weights.tensors,
      async readF32(asked) {
        const data = await model.weights.readF32(asked);
        if (asked === name && reads++ < 2) data[5]! += 3;
        return data;
      },
    };
    await expect(exported('llama', { model: { ...model, weights } })).rejects.toThrow(
      /model\.onnx: logits differ .*the first operator that differs is model\.layers\.1\.mlp\.down_proj\/matmul/,
    );
  });
});
