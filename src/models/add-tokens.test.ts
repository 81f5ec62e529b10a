import { describe, expect, it } from 'vitest';
import { MemorySource, type FileSource } from '../formats/byte-source.ts';
import { adapterConfig } from '../formats/peft.ts';
import { addTokens, growVocabulary, trainedTokens } from './add-tokens.ts';
import { openModel } from './model.ts';
import { writeSafetensors } from '../formats/safetensors.ts';
import { baseParameters } from './model.ts';
import { readArchitecture } from './architectures/index.ts';
import { noise } from '../engine/testing.ts';
import { loadTokenizer } from './tokenizer.ts';

const WORDS = ['<unk>', 'a', 'b', 'think'];
const tokenizer = {
  model: { type: 'WordLevel', vocab: Object.fromEntries(WORDS.map((word, id) => [word, id])), unk_token: '<unk>' },
  added_tokens: [
    { id: 0, content: '<unk>', special: true, single_word: false, lstrip: false, rstrip: false, normalized: false },
  ],
  pre_tokenizer: { type: 'WhitespaceSplit' },
};
const config = (vocab_size: number, tie_word_embeddings: boolean) => ({
  model_type: 'llama',
  vocab_size,
  hidden_size: 4,
  intermediate_size: 4,
  num_hidden_layers: 1,
  num_attention_heads: 1,
  tie_word_embeddings,
});

function folderOf(vocab_size: number, tied: boolean): FileSource {
  const json = config(vocab_size, tied);
  const tensors = [...baseParameters(readArchitecture(json, 'config.json'))].map(([name, symbolic], i) => {
    const shape = symbolic as number[];
    const data = Float32Array.from(
      noise(
        shape.reduce((a, b) => a * b),
        i,
      ),
    );
    return { name, dtype: 'F32' as const, shape, data };
  });
  const text = (value: object) => new TextEncoder().encode(JSON.stringify(value));
  const files = new Map([
    ['tokenizer.json', text(tokenizer)],
    ['config.json', text(json)],
    ['model.safetensors', writeSafetensors(tensors)],
  ]);
  return {
    name: 'model',
    open: async (path) => (files.has(path) ? new MemorySource(path, Uint8Array.from(files.get(path)!)) : undefined),
  };
}

describe('new tokens', () => {
  it('are single tokens with the next ids; one that is there keeps its own', async () => {
    const added = await addTokens(folderOf(4, true), ['<x>', 'think', '<y>', '<x>']);
    expect(added).toMatchObject({ first: 4, count: 2 });
    const grown = await loadTokenizer(added.folder);
    expect(grown.encode('a<x>b<y>', { add_special_tokens: false })).toEqual([1, 4, 2, 5]);
    expect(grown.encode('athink', { add_special_tokens: false })).toEqual([1, 3]);
    expect(grown.decode([1, 4], { skip_special_tokens: true })).toBe('a');
  });

  it.each([
    ['tied', 4, true, 6],
    ['untied', 4, false, 6],
    ['into padding', 8, true, 8],
  ])('have the mean row, %s', async (_, vocab_size, tied, expected) => {
    const folder = folderOf(vocab_size, tied);
    const model = await openModel(folder);
    const added = await addTokens(folder, ['<x>', '<y>']);
    const grown = growVocabulary(model, added);
    expect(grown.options.vocab_size).toBe(expected);
    for (const name of tied ? ['model.embed_tokens.weight'] : ['model.embed_tokens.weight', 'lm_head.weight']) {
      expect(grown.parameters.get(name)).toEqual([expected, 4]);
      const [old, now] = [await model.weights.readF32(name), await grown.weights.readF32(name)];
      expect(now.subarray(0, 16)).toEqual(old.subarray(0, 16));
      for (let column = 0; column < 4; column++) {
        const mean = [0, 1, 2, 3].reduce((sum, row) => sum + old[4 * row + column]! / 4, 0);
        // a mean in float64, rounded once
        expect(now[16 + column]).toBeCloseTo(mean, 7);
        expect(now[20 + column]).toBe(now[16 + column]);
      }
      expect(now.subarray(24)).toEqual(old.subarray(24));
    }
    const settings = adapterConfig({ target_modules: 'all-linear' });
    const rows = trainedTokens(grown.options, added, settings);
    expect(rows).toEqual(tied ? [4, 5] : { embed_tokens: [4, 5], lm_head: [4, 5] });
    if (tied) return;
    const whole = { ...settings, modules_to_save: ['lm_head'] };
    expect(trainedTokens(grown.options, added, whole)).toEqual({ embed_tokens: [4, 5] });
  });

  it('none change nothing', async () => {
    const folder = folderOf(4, true);
    expect((await addTokens(folder, [])).folder).toBe(folder);
  });
});
