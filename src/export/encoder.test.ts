/** Encoders as files: every precision gives the engine's hidden states and logits, alone and padded, bare or with a head. */
import { describe, expect, it } from 'vitest';
import { testDevice } from '../engine/testing.ts';
import { MemorySource } from '../formats/byte-source.ts';
import { readAdapter } from '../formats/peft.ts';
import { openSafetensors } from '../formats/safetensors.ts';
import { bertNames } from '../models/names.ts';
import { isEncoder } from '../models/architectures/index.ts';
import { encodedSequences } from '../models/encoder-outputs.ts';
import { openAnyModel } from '../models/model.ts';
import { loadAdapter, loadParameters } from '../models/on-device.ts';
import { exportModel } from './export-model.ts';
import { hasReference, MemorySink, ort, referenceFolder } from './export.testing.ts';

const SEQUENCES = [
  [5, 77, 130, 12, 40, 8, 9],
  [30, 2, 45, 45],
];

for (const name of ['bert', 'distilbert']) {
  describe.skipIf(!hasReference(name))(`export of ${name}`, { timeout: 120_000 }, () => {
    it('computes what the engine does with an adapter beside the base', async () => {
      const model = await openAnyModel(referenceFolder(name));
      if (!isEncoder(model.options)) throw new Error('no encoder');
      const adapter = await readAdapter(referenceFolder(`${name}/lora`));
      const device = await testDevice();
      const tensors = await loadParameters(device, model);
      loadAdapter(device, model.options, adapter, 'lora', tensors);
      const settings = { settings: adapter.config, trainable: false };
      const reference = await encodedSequences(device, model.options, tensors, SEQUENCES, settings);
      const sink = new MemorySink();
      const done = await exportModel({
        model,
        adapters: [{ name: 'lora', adapter }],
        dtypes: ['fp32', 'fp16', 'q8', 'q4', 'q4f16'],
        safetensors: true,
        card: { title: 'tiny', distilled: false },
        out: sink,
        ort,
        reference,
      });
      const by = new Map(done.files.map((file) => [file.dtype, file.max_logit_difference!]));
      // merged against unmerged in float32; then what the bits of a weight leave
      expect(by.get('fp32')).toBeLessThan(2e-5);
      expect(by.get('fp16')).toBeLessThan(5e-3);
      expect(by.get('q8')).toBeLessThan(5e-2);
      const weights = await openSafetensors(new MemorySource('model', sink.files.get('model.safetensors')!));
      expect([...weights.tensors.keys()].sort()).toEqual([...model.weights.tensors.keys()].sort());
      expect(sink.text('README.md')).toContain('pipeline_tag: fill-mask');
      expect(sink.files.has('generation_config.json')).toBe(false);
      expect(sink.json('config.json')['transformers.js_config']).not.toHaveProperty('kv_cache_dtype');
    });
  });
}

describe.skipIf(!hasReference('bert'))('export of a bare BertModel', { timeout: 120_000 }, () => {
  it('gives hidden states alone, under its own names', async () => {
    const whole = await openAnyModel(referenceFolder('bert'));
    if (!isEncoder(whole.options)) throw new Error('no encoder');
    const rename = (key: string): string => key.replace(/^bert\./, '');
    const bare = (key: string): boolean => key.startsWith('bert.');
    const stored = (key: string): string => `bert.${key}`;
    const model = {
      ...whole,
      options: { ...whole.options, names: bertNames(''), head: false },
      parameters: new Map([...whole.parameters].filter(([key]) => bare(key)).map(([key, v]) => [rename(key), v])),
      weights: {
        ...whole.weights,
        tensors: new Map([...whole.weights.tensors].filter(([key]) => bare(key)).map(([key, v]) => [rename(key), v])),
        readF32: (key: string) => whole.weights.readF32(stored(key)),
      },
    };
    const device = await testDevice();
    const reference = await encodedSequences(device, model.options, await loadParameters(device, model), SEQUENCES);
    const sink = new MemorySink();
    const done = await exportModel({
      model,
      dtypes: ['fp32'],
      card: { title: 'tiny', distilled: false },
      out: sink,
      ort,
      reference,
    });
    expect(done.files[0]!.max_logit_difference).toBeLessThan(2e-6);
    expect(done.files[0]!.top1_agreement).toBeUndefined();
    const session = await ort.InferenceSession.create(sink.files.get('onnx/model.onnx')!);
    expect(session.inputNames).toEqual(['input_ids', 'attention_mask', 'token_type_ids']);
    expect(session.outputNames).toEqual(['last_hidden_state']);
    await session.release();
  });
});
