import { describe, expect, it } from 'vitest';
import { nodeFolder } from '../cli/node-files.ts';
import { adapterConfig, type Adapter } from '../formats/peft.ts';
import { openModel } from './model.ts';
import { fitted, stored } from './untie.ts';

const EMBEDDING = 'model.embed_tokens.weight';
const HEAD = 'lm_head.weight';
const tied = () => openModel(nodeFolder('public/bundled/arithmetic'));
const adapter = (modules_to_save: string[], ensure_weight_tying: boolean, names: string[]): Adapter => ({
  config: adapterConfig({ target_modules: ['q_proj'], modules_to_save, ensure_weight_tying }),
  tensors: new Map(names.map((name) => [name, { shape: [64, 96], data: new Float32Array(64 * 96).fill(1) }])),
});

describe('an adapter that saves a tied table whole', () => {
  it.each([['embed_tokens'], ['lm_head']])('takes the two apart: %s', async (module) => {
    const base = await tied();
    const { model } = fitted(base, adapter([module], false, []), 'a');
    expect([base.options.tie_word_embeddings, base.parameters.has(HEAD)]).toEqual([true, false]);
    expect([model.options.tie_word_embeddings, model.parameters.has(HEAD)]).toEqual([false, true]);
    expect(model.config.tie_word_embeddings).toBe(false);
    expect(await model.weights.readF32(HEAD)).toEqual(await base.weights.readF32(EMBEDDING));
  });

  it('leaves them one where it ensures so, and is stored with both names', async () => {
    const base = await tied();
    const given = adapter(['model.embed_tokens'], true, [EMBEDDING, HEAD]);
    const both = fitted(base, given, 'a');
    expect(both.model).toBe(base);
    expect([...both.adapter.tensors.keys()]).toEqual([EMBEDDING]);
    expect(stored(base, both.adapter).tensors).toEqual(given.tensors);
  });

  it('leaves a model alone that saves other modules', async () => {
    const base = await tied();
    expect(fitted(base, adapter(['norm'], false, []), 'a').model).toBe(base);
  });
});
