/**
 * llama.cpp answers from the files that export writes, and the engine from the same files, read by our own reader: of a
 * Q8_0 or Q4_0 file both compute with the rounded weights. The template, the tokens of the prompt and the greedy tokens are
 * the same; logits are within what the two may round apart.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { askLlamaCpp, llamaCppPython } from '../../../scripts/llama-cpp.mjs';
import { realModel } from '../../../scripts/real-models.mjs';
import { nodeFile, nodeFolder } from '../../cli/node-files.ts';
import { writeFileWhole } from '../../cli/write-file.ts';
import { testDevice } from '../../engine/testing.ts';
import type { Device } from '../../engine/run/device.ts';
import { sequenceLogits } from '../../models/logits.ts';
import { openModel } from '../../models/model.ts';
import { loadParameters } from '../../models/on-device.ts';
import { loadTokenizer } from '../../models/tokenizer.ts';
import type { FileSource } from '../../formats/byte-source.ts';
import { exportModel, type ExportSink } from '../export-model.ts';
import { ort } from '../export.testing.ts';

/**
 * Largest difference of a logit over the largest one. llama.cpp rounds activations to 8 bits, one step a block of 32, before
 * it multiplies them with a quantised weight, and to f16 before it does with f16.
 */
const TOLERANCE = { F32: 1e-4, F16: 2e-3, Q8_0: 1e-2, Q4_0: 1e-2 } as const;

const python = llamaCppPython();
const folders: string[] = [];
afterAll(() => Promise.all(folders.map((folder) => rm(folder, { recursive: true }))));

async function exportedFolder(model: string, type: keyof typeof TOLERANCE): Promise<string> {
  const folder = await mkdtemp(path.join(tmpdir(), 'stillroom-gguf-'));
  folders.push(folder);
  const out: ExportSink = {
    write: (name, content) =>
      writeFileWhole(path.join(folder, name), content instanceof Uint8Array ? [content] : content),
    open: (name) => nodeFile(path.join(folder, name)),
  };
  const card = { title: 'model', distilled: false } as const;
  const given = { model: await openModel(nodeFolder(model)), dtypes: [], gguf: [type], card, out, ort, reference: [] };
  await exportModel(given);
  return folder;
}

/** A GGUF with nothing beside it: the config comes out of its metadata. */
const alone = (folder: string, file: string): FileSource => ({
  name: file,
  open: async (name) => (name === file ? nodeFile(path.join(folder, file)) : undefined),
  list: async () => [file],
});

interface Case {
  readonly model: string;
  readonly question: string;
  readonly type: string;
  readonly tolerance: number;
}

const smollm2 = python === undefined ? undefined : realModel('smollm2');
const cases: Case[] = [
  ...Object.entries(TOLERANCE).map(([type, tolerance]) => {
    return { model: 'public/bundled/arithmetic', question: '62 + 42 = ?', type, tolerance };
  }),
  // where both compute with rounded weights: minutes each on a software adapter
  ...(smollm2 === undefined ? [] : ['Q8_0', 'Q4_0']).map((type) => {
    return { model: smollm2!, question: 'What is the capital of France?', type, tolerance: TOLERANCE.Q8_0 };
  }),
];

describe.skipIf(python === undefined)('llama.cpp and the engine (skipped without llama-cpp-python)', () => {
  let device: Device;
  beforeAll(async () => {
    device = await testDevice();
  });

  it.each(cases)(
    'write the same from $type of $model',
    { timeout: 900_000 },
    async ({ model: from, question, type, tolerance }) => {
      const folder = await exportedFolder(from, type as keyof typeof TOLERANCE);
      const file = `model-${type}.gguf`;
      const messages = [{ role: 'user', content: question }];
      const asked = { model: path.join(folder, file), messages, tokens: 24, context: 128 };
      const theirs = askLlamaCpp(python!, asked);

      const model = await openModel(alone(folder, file));
      const tokenizer = await loadTokenizer(nodeFolder(folder), { vocab_size: model.options.vocab_size });
      const prompt = tokenizer.chat_template!.render(messages, { add_generation_prompt: true });
      expect(theirs.prompt).toBe(prompt);
      const ids = tokenizer.encode(prompt, { add_special_tokens: false });
      expect(theirs.input_ids).toEqual(ids);

      const tensors = await loadParameters(device, model);
      const text = [...ids, ...theirs.written.slice(0, -1)];
      const [ours] = await sequenceLogits(device, model.options, tensors, [text]);
      for (const tensor of tensors.values()) device.freeTensor(tensor);
      const { vocab_size } = model.options;
      const logits = ours!.logits.subarray((ids.length - 1) * vocab_size);
      const written = theirs.written.map((_, t) => {
        const place = logits.subarray(t * vocab_size, (t + 1) * vocab_size);
        return place.indexOf(place.reduce((a, b) => Math.max(a, b)));
      });
      expect(written).toEqual(theirs.written);
      const largest = logits.reduce((most, logit) => Math.max(most, Math.abs(logit)), 0);
      const difference = logits.reduce((most, logit, i) => Math.max(most, Math.abs(logit - theirs.logits[i]!)), 0);
      expect(difference / largest).toBeLessThan(tolerance);
    },
  );
});
