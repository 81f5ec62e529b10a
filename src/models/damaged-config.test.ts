/**
 * A damaged config.json, of every architecture, is read or refused in words, and what is read can be built: no crash, and
 * nothing that grows with a number that a damage has made large.
 */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { nodeFile } from '../cli/node-files.ts';
import { MemorySource, type FileSource } from '../formats/byte-source.ts';
import { readDamaged } from '../formats/mutation.testing.ts';
import { openSafetensors } from '../formats/safetensors.ts';
import { readAnyArchitecture, textConfig } from './architectures/index.ts';
import { baseParameters, readConfig } from './model.ts';

const FIXTURES = 'src/models/architectures';
const OTHERS = [
  {
    model_type: 'llama',
    vocab_size: 64,
    hidden_size: 32,
    num_hidden_layers: 2,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    intermediate_size: 48,
    max_position_embeddings: 64,
    rms_norm_eps: 1e-5,
    rope_theta: 10000,
    rope_scaling: {
      rope_type: 'llama3',
      factor: 8,
      low_freq_factor: 1,
      high_freq_factor: 4,
      original_max_position_embeddings: 32,
    },
    tie_word_embeddings: false,
  },
  { model_type: 'gpt2', vocab_size: 64, n_embd: 32, n_layer: 2, n_head: 4, n_positions: 64 },
];

it('1,000 damaged configs are read or refused, and what is read is built', { timeout: 120_000 }, async () => {
  const configs = OTHERS.map((config) => JSON.stringify(config, null, 2));
  for (const name of readdirSync(FIXTURES).filter((file) => file.endsWith('.fixture.safetensors'))) {
    const { metadata } = await openSafetensors(await nodeFile(join(FIXTURES, name)));
    if (metadata.config) configs.push(metadata.config);
  }
  expect(configs.length).toBeGreaterThan(8);
  const seeds = configs.map((text) => new TextEncoder().encode(text));
  const outcomes = await readDamaged(seeds, 1000, async (bytes) => {
    const folder: FileSource = {
      name: 'model',
      open: (path) => Promise.resolve(path === 'config.json' ? new MemorySource(path, bytes) : undefined),
    };
    const config = textConfig((await readConfig(folder))!, 'model/config.json');
    const options = readAnyArchitecture(config, 'model/config.json', new Set(['vocab_transform.weight']));
    baseParameters(options);
  });
  expect(outcomes.read).toBeGreaterThan(50);
  expect(outcomes.refused).toBeGreaterThan(300);
});
