/**
 * A real encoder, a bare `BertModel` without prefix or head: all-MiniLM-L6-v2 against transformers (torch 2.15, float32;
 * `minilm.fixture.json` holds token ids, the hidden states of the first and last token, and the mean of all, normed) and
 * its export as users of embeddings open it.
 */
import { readFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { env, pipeline } from '@huggingface/transformers';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { realModel } from '../../scripts/real-models.mjs';
import { nodeFolder } from '../cli/node-files.ts';
import { writeFileWhole } from '../cli/write-file.ts';
import { expectClose, testDevice } from '../engine/testing.ts';
import { isEncoder } from '../models/architectures/index.ts';
import { encodedSequences, type EncodedSequence } from '../models/encoder-outputs.ts';
import { openAnyModel, type Model } from '../models/model.ts';
import type { EncoderOptions } from '../models/encoder.ts';
import { loadParameters } from '../models/on-device.ts';
import { exportModel } from './export-model.ts';
import { MemorySink, ort } from './export.testing.ts';

interface Expected {
  readonly text: string;
  readonly input_ids: readonly number[];
  readonly first: readonly number[];
  readonly last: readonly number[];
  readonly embedding: readonly number[];
}

const folder = realModel('minilm');
const expected = JSON.parse(readFileSync(new URL('./minilm.fixture.json', import.meta.url), 'utf8')) as Expected[];

describe.skipIf(folder === undefined)('all-MiniLM-L6-v2 (skipped without it)', { timeout: 300_000 }, () => {
  let model: Model<EncoderOptions>;
  let encoded: EncodedSequence[];
  let root: string | undefined;
  afterAll(() => root && rm(root, { recursive: true }));

  beforeAll(async () => {
    const opened = await openAnyModel(nodeFolder(folder!));
    if (!isEncoder(opened.options)) throw new Error('it is no encoder');
    model = { ...opened, options: opened.options };
    const device = await testDevice();
    const sequences = expected.map(({ input_ids }) => input_ids);
    encoded = await encodedSequences(device, model.options, await loadParameters(device, model), sequences);
  }, 300_000);

  it('gives transformers’ hidden states', () => {
    expect(model.options).toMatchObject({ head: false, names: { layers: 'encoder.layer' } });
    const width = model.options.hidden_size;
    for (const [i, { text, first, last }] of expected.entries()) {
      const { last_hidden_state } = encoded[i]!;
      expectClose(last_hidden_state.subarray(0, width), first, 1e-5, text);
      expectClose(last_hidden_state.subarray(-width), last, 1e-5, text);
    }
  });

  it('gives its embeddings from the exported folder, by transformers.js', async () => {
    const sink = new MemorySink();
    const card = { title: 'minilm', distilled: false };
    const done = await exportModel({ model, dtypes: ['fp32', 'q8'], card, out: sink, ort, reference: encoded });
    const differences = new Map(done.files.map((file) => [file.dtype, file.max_logit_difference!]));
    expect(differences.get('fp32')).toBeLessThan(1e-5);
    expect(differences.get('q8')).toBeLessThan(5e-2);
    root = await mkdtemp(path.join(tmpdir(), 'stillroom-'));
    for (const [file, bytes] of sink.files) await writeFileWhole(path.join(root, 'model', file), [bytes]);
    env.localModelPath = `${root}/`;
    env.allowRemoteModels = false;
    const embed = await pipeline('feature-extraction', 'model', { dtype: 'fp32' });
    for (const { text, embedding } of expected) {
      const vector = await embed(text, { pooling: 'mean', normalize: true });
      expectClose(vector.data as Float32Array, embedding, 1e-5, text);
    }
  });
});
