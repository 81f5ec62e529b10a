/** The exported folder as its users open it: transformers.js, no dtype named, the chat template of the folder. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { env, pipeline, type Message } from '@huggingface/transformers';
import { afterAll, describe, expect, it } from 'vitest';
import { writeFileWhole } from '../cli/write-file.ts';
import { testDevice } from '../engine/testing.ts';
import type { TensorFile } from '../formats/tensor-file.ts';
import { readAdapter } from '../formats/peft.ts';
import { Generator } from '../models/generate.ts';
import { sequenceLogits } from '../models/logits.ts';
import { loadParameters } from '../models/on-device.ts';
import { loadTokenizer } from '../models/tokenizer.ts';
import { exportModel } from './export-model.ts';
import { hasReference, MemorySink, ort, referenceFolder, referenceModel } from './export.testing.ts';
import { mergeAdapters } from './merge.ts';

const NEW_TOKENS = 8;
const folders: string[] = [];
afterAll(() => Promise.all(folders.map((folder) => rm(folder, { recursive: true }))));

describe.skipIf(!hasReference('sft_llama'))('pipeline(text-generation)', () => {
  // kernels are compiled for two shapes: a minute where the processor is shared
  it('writes the engine’s greedy tokens from the exported folder', { timeout: 180_000 }, async () => {
    const model = await referenceModel('sft_llama');
    const tokenizer = await loadTokenizer(model.folder);
    const adapters = [{ name: 'lora', adapter: await readAdapter(referenceFolder('sft_llama/lora_final')) }];
    const weights = { ...model.weights, ...mergeAdapters(model.weights, adapters, model.options) } as TensorFile;
    const device = await testDevice();
    const tensors = await loadParameters(device, { parameters: model.parameters, weights });

    const sink = new MemorySink();
    await exportModel({
      model,
      adapters,
      dtypes: ['fp32', 'q8', 'q4', 'q4f16'],
      card: { title: 'sft', distilled: false },
      out: sink,
      ort,
      reference: await sequenceLogits(device, model.options, tensors, [
        [5, 77, 130, 12, 400, 8, 9],
        [300, 2, 45, 45],
      ]),
    });
    const root = await mkdtemp(path.join(tmpdir(), 'stillroom-'));
    folders.push(root);
    for (const [file, bytes] of sink.files) await writeFileWhole(path.join(root, 'model', file), [bytes]);

    env.localModelPath = `${root}/`;
    env.allowRemoteModels = false;
    const write = await pipeline('text-generation', 'model');
    // random weights settle into a loop soon: several beginnings say more than a long one
    const chats: Message[][] = ['How many?', 'Natalia sold 48 clips in April.', 'x'].map((content) => [
      { role: 'user', content },
    ]);
    const prompts = chats.map((chat) =>
      (
        write.tokenizer.apply_chat_template(chat, {
          add_generation_prompt: true,
          return_tensor: false,
          return_dict: false,
        }) as number[]
      ).map(Number),
    );
    const longest = Math.max(...prompts.map(({ length }) => length));
    const shape = { batch: prompts.length, prompt: longest, capacity: longest + NEW_TOKENS };
    const generator = await Generator.create(device, model.options, tensors, shape);
    const wanted = await generator.generate(prompts, {
      max_new_tokens: NEW_TOKENS,
      eos_token_ids: [tokenizer.eos_token_id!],
      temperature: 0,
      top_p: 1,
      seed: 1,
    });
    generator.free();
    for (const [i, chat] of chats.entries()) {
      const [answer] = await write(chat, { max_new_tokens: NEW_TOKENS, do_sample: false });
      const text = (answer!.generated_text as Message[]).at(-1)!.content as string;
      expect(text).toBe(write.tokenizer.decode(wanted[i]!, { skip_special_tokens: true }));
    }

    // by name, each dtype's own file is found and writes: transformers.js knows its suffix
    for (const dtype of ['q8', 'q4', 'q4f16'] as const) {
      const [answer] = await (
        await pipeline('text-generation', 'model', { dtype })
      )(chats[0]!, {
        max_new_tokens: NEW_TOKENS,
        do_sample: false,
      });
      expect((answer!.generated_text as Message[]).at(-1), dtype).toMatchObject({ role: 'assistant' });
    }
  });
});
