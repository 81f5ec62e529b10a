/**
 * llama.cpp answers from the files that export writes, and the engine from the same files, read by our own reader: of a
 * Q8_0 or Q4_0 file both compute with the rounded weights. The template, the tokens of the prompt and the greedy tokens are
 * the same; logits are within what the two may round apart.
 *
 * llama.cpp rounds what it multiplies with a quantised weight too, to 8 bits, one step a block of 32. So that this hides
 * nothing, it also answers from the numbers of a quantised file written once more as F32.
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
import { compress } from '../../models/compress.ts';
import { sequenceLogits } from '../../models/logits.ts';
import { openModel, type Model } from '../../models/model.ts';
import { loadParameters } from '../../models/on-device.ts';
import { loadTokenizer } from '../../models/tokenizer.ts';
import { namedIds, TokenUse, trimFolder, trimVocabulary } from '../../models/trim-vocabulary.ts';
import type { FileSource } from '../../formats/byte-source.ts';
import { exportModel, type ExportSink } from '../export-model.ts';
import { ort } from '../export.testing.ts';

/** Largest difference of a logit over the largest one, of a small model; activations are rounded as the weights are. */
const TOLERANCE = { F32: 1e-4, F16: 2e-3, Q8_0: 1e-2, Q4_0: 1e-2 } as const;
type Type = keyof typeof TOLERANCE;

const python = llamaCppPython();
const folders: string[] = [];
afterAll(() => Promise.all(folders.map((folder) => rm(folder, { recursive: true }))));

/** A folder with the model as a GGUF of this type, and what export writes beside it. */
async function exported(model: Model, type: Type): Promise<string> {
  const folder = await mkdtemp(path.join(tmpdir(), 'stillroom-gguf-'));
  folders.push(folder);
  const out: ExportSink = {
    write: (name, content) =>
      writeFileWhole(path.join(folder, name), content instanceof Uint8Array ? [content] : content),
    open: (name) => nodeFile(path.join(folder, name)),
  };
  const card = { title: 'model', distilled: false } as const;
  await exportModel({ model, dtypes: [], gguf: [type], card, out, ort, reference: [] });
  return folder;
}

/** A GGUF with nothing beside it: the config comes out of its metadata. */
const alone = (folder: string, file: string): FileSource => ({
  name: file,
  open: async (name) => (name === file ? nodeFile(path.join(folder, file)) : undefined),
  list: async () => [file],
});

const smollm2 = python === undefined ? undefined : realModel('smollm2');
const arithmetic = { from: 'public/bundled/arithmetic', question: '62 + 42 = ?', isSmall: true };
const capital = { from: smollm2!, question: 'What is the capital of France?', isSmall: false };
const cases = [
  ...(['F32', 'F16', 'Q8_0', 'Q4_0'] as const).map((type) => ({ ...arithmetic, type })),
  // minutes each on a software adapter
  ...(smollm2 === undefined ? [] : (['Q8_0', 'Q4_0'] as const)).map((type) => ({ ...capital, type })),
];

describe.skipIf(python === undefined)('llama.cpp and the engine (skipped without llama-cpp-python)', () => {
  let device: Device;
  beforeAll(async () => {
    device = await testDevice();
  });

  it.skipIf(smollm2 === undefined).each(['F32', 'Q8_0'] as const)(
    'write the same from %s of two layers of SmolLM2 whose vocabulary was trimmed to what one row uses',
    { timeout: 300_000 },
    async (type) => {
      const messages = [{ role: 'user', content: 'Which word comes first, “apple” or “Äpfel”? 1 + 2 = 3.' }];
      const whole = await openModel(nodeFolder(smollm2!));
      const hears = await loadTokenizer(nodeFolder(smollm2!));
      const use = await TokenUse.of(nodeFolder(smollm2!), hears);
      hears.encode(hears.chat_template!.render(messages, { add_generation_prompt: true }));
      const tokens = use.kept(namedIds(whole.config));
      expect(tokens.kept.length).toBeLessThan(1000);
      const short = compress(whole, { layers: [0, 29], init: 'even' }, 1, 'recipe');
      const trimmed = trimVocabulary(short, tokens, trimFolder(short.folder, tokens)) as Model;
      const folder = await exported(trimmed, type);
      const model = await openModel(alone(folder, `model-${type}.gguf`));
      const tokenizer = await loadTokenizer(nodeFolder(folder), { vocab_size: tokens.kept.length });
      const prompt = tokenizer.chat_template!.render(messages, { add_generation_prompt: true });
      const ids = tokenizer.encode(prompt, { add_special_tokens: false });
      // the same pieces of text as before, under their new ids
      const before = hears.encode(prompt, { add_special_tokens: false });
      expect(ids.map((id) => tokens.kept[id])).toEqual(before);

      const again = type === 'F32' ? folder : await exported({ ...model, folder: nodeFolder(folder) }, 'F32');
      const file = path.join(again, 'model-F32.gguf');
      const theirs = askLlamaCpp(python!, { model: file, messages, tokens: 16, context: 128 });
      expect(theirs.input_ids).toEqual(ids);
      const tensors = await loadParameters(device, model);
      const { vocab_size } = model.options;
      const text = [...ids, ...theirs.written.slice(0, -1)];
      const [answer] = await sequenceLogits(device, model.options, tensors, [text]);
      const ours = answer!.logits.subarray((ids.length - 1) * vocab_size);
      expect(theirs.written.map((_, t) => likeliest(ours, t, vocab_size))).toEqual(theirs.written);
      const largest = ours.reduce((most, logit) => Math.max(most, Math.abs(logit)), 0);
      const difference = ours.reduce((most, logit, i) => Math.max(most, Math.abs(logit - theirs.logits[i]!)), 0);
      expect(difference / largest).toBeLessThan(TOLERANCE.F32);
      for (const tensor of tensors.values()) device.freeTensor(tensor);
    },
  );

  it.each(cases)(
    'write the same from $type of $from',
    { timeout: 900_000 },
    async ({ from, question, isSmall, type }) => {
      const messages = [{ role: 'user', content: question }];
      const folder = await exported(await openModel(nodeFolder(from)), type);
      const model = await openModel(alone(folder, `model-${type}.gguf`));
      const tokenizer = await loadTokenizer(nodeFolder(folder), { vocab_size: model.options.vocab_size });
      const prompt = tokenizer.chat_template!.render(messages, { add_generation_prompt: true });
      const ids = tokenizer.encode(prompt, { add_special_tokens: false });
      const tensors = await loadParameters(device, model);

      const ask = (file: string) => {
        const theirs = askLlamaCpp(python!, { model: file, messages, tokens: 24, context: 128 });
        expect(theirs.prompt).toBe(prompt);
        expect(theirs.input_ids).toEqual(ids);
        if (isSmall) expect(tokenizer.decode(theirs.written)).toContain('104');
        return theirs;
      };
      const compare = async ({ written, logits }: ReturnType<typeof askLlamaCpp>, tolerance: number) => {
        const text = [...ids, ...written.slice(0, -1)];
        const [{ logits: whole } = { logits: new Float32Array() }] = await sequenceLogits(
          device,
          model.options,
          tensors,
          [text],
        );
        const ours = whole.subarray((ids.length - 1) * model.options.vocab_size);
        expect(written.map((_, t) => likeliest(ours, t, model.options.vocab_size))).toEqual(written);
        const largest = ours.reduce((most, logit) => Math.max(most, Math.abs(logit)), 0);
        const difference = ours.reduce((most, logit, i) => Math.max(most, Math.abs(logit - logits[i]!)), 0);
        expect(difference / largest).toBeLessThan(tolerance);
      };
      const itself = ask(path.join(folder, `model-${type}.gguf`));
      // through thirty layers, rounded activations move more than the distance between two words
      if (isSmall) await compare(itself, TOLERANCE[type]);
      if (type === 'Q8_0' || type === 'Q4_0') {
        const again = await exported({ ...model, folder: nodeFolder(folder) }, 'F32');
        await compare(ask(path.join(again, 'model-F32.gguf')), TOLERANCE.F32);
      }
      for (const tensor of tensors.values()) device.freeTensor(tensor);
    },
  );
});

function likeliest(logits: Float32Array, t: number, vocab_size: number): number {
  const place = logits.subarray(t * vocab_size, (t + 1) * vocab_size);
  return place.indexOf(place.reduce((a, b) => Math.max(a, b)));
}
