/**
 * Rotary that follows the length of the sequence, past the original length (12 tokens). By transformers 5.24: logits of 20
 * tokens in one pass, and the 14 tokens that `generate` writes greedily after 8, against its cache: under dynamic scaling
 * keys stay as they were turned when they came, under longrope the cache is filled anew where its other factors begin.
 */
import { describe, expect, it } from 'vitest';
import { nodeFile } from '../cli/node-files.ts';
import { expectClose, testDevice } from '../engine/testing.ts';
import { exportModel } from '../export/export-model.ts';
import { fixtureLogits, fixtureModel, MemorySink, ort } from '../export/export.testing.ts';
import { openSafetensors } from '../formats/safetensors.ts';
import { Generator } from './generate.ts';
import { sequenceLogits } from './logits.ts';
import { loadParameters } from './on-device.ts';

describe.each(['llama-dynamic', 'phi3-longrope'])('%s', (NAME) => {
  it('a sequence is turned by its own length, beside a shorter one too', async () => {
    const device = await testDevice();
    const { options, ...model } = await fixtureModel(NAME);
    const tensors = await loadParameters(device, { ...model, options });
    const [{ input_ids, logits }] = (await fixtureLogits(NAME)) as [{ input_ids: number[]; logits: Float32Array }];
    const [short, long] = await sequenceLogits(device, options, tensors, [input_ids.slice(0, 9), input_ids]);
    expectClose(long!.logits, logits, 2e-4, 'logits');
    const [alone] = await sequenceLogits(device, options, tensors, [input_ids.slice(0, 9)]);
    expect(short!.logits).toEqual(alone!.logits);
  });

  it('writes past the trained length what transformers does', async () => {
    const device = await testDevice();
    const { options, ...model } = await fixtureModel(NAME);
    const tensors = await loadParameters(device, { ...model, options });
    const file = await openSafetensors(await nodeFile(`src/models/architectures/${NAME}.fixture.safetensors`));
    const prompt = Array.from((await file.read('input.input_ids')) as Int32Array).slice(0, 8);
    const generator = await Generator.create(device, options, tensors, { batch: 1, prompt: 8, capacity: 22 });
    const sampling = { temperature: 0, top_p: 1, seed: 0 };
    const [written] = await generator.generate([prompt], { max_new_tokens: 14, eos_token_ids: [], ...sampling });
    generator.free();
    expect(written).toEqual(Array.from((await file.read('greedy')) as Int32Array));
  });

  it('is exported so that onnxruntime-web gives PyTorch’s logits, in each precision', async () => {
    const { files } = await exportModel({
      model: await fixtureModel(NAME),
      dtypes: ['fp32', 'fp16'],
      card: { title: 'tiny', distilled: false },
      out: new MemorySink(),
      ort,
      reference: await fixtureLogits(NAME),
    });
    expect(files[0]!.max_logit_difference).toBeLessThan(1e-5);
    expect(files[1]!.max_logit_difference).toBeLessThan(5e-3);
  });
});
