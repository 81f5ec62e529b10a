import { describe, expect, it } from 'vitest';
import { nodeFolder } from '../cli/node-files.ts';
import { adapterConfig, type Adapter, type AdapterConfig } from '../formats/peft.ts';
import { tinyEncoderFolder } from './architectures/tiny-encoder.testing.ts';
import { openAnyModel, openModel } from './model.ts';
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
    const { model } = await fitted(base, adapter([module], false, []), 'a');
    expect([base.options.tie_word_embeddings, base.parameters.has(HEAD)]).toEqual([true, false]);
    expect([model.options.tie_word_embeddings, model.parameters.has(HEAD)]).toEqual([false, true]);
    expect(model.config.tie_word_embeddings).toBe(false);
    expect(await model.weights.readF32(HEAD)).toEqual(await base.weights.readF32(EMBEDDING));
  });

  it('leaves them one where it ensures so, and is stored with both names', async () => {
    const base = await tied();
    const given = adapter(['model.embed_tokens'], true, [EMBEDDING, HEAD]);
    const both = await fitted(base, given, 'a');
    expect(both.model).toBe(base);
    expect([...both.adapter.tensors.keys()]).toEqual([EMBEDDING]);
    expect(stored(base, both.adapter).tensors).toEqual(given.tensors);
  });

  it('leaves a model alone that saves other modules', async () => {
    const base = await tied();
    expect((await fitted(base, adapter(['norm'], false, []), 'a')).model).toBe(base);
  });

  it('takes them apart for a pair on the head, and drops the copy of its weight that PEFT keeps with it', async () => {
    const base = await tied();
    const config = adapterConfig({ target_modules: ['lm_head'], r: 2 });
    const shape = [64, 96];
    const copy = await base.weights.readF32(EMBEDDING);
    const { model, adapter: both } = await fitted(
      base,
      { config, tensors: new Map([[HEAD, { shape, data: copy }]]) },
      'a',
    );
    expect(model.options.tie_word_embeddings).toBe(false);
    expect([...both.tensors.keys()]).toEqual([]);
    const other = { config, tensors: new Map([[HEAD, { shape, data: copy.map((value) => value + 1) }]]) };
    await expect(fitted(base, other, 'a')).rejects.toThrow('a: tensor lm_head.weight: it is not the base’s');
  });

  it('keeps the bias of an encoder’s head under both of the names that PEFT asks for', async () => {
    const base = await openAnyModel(await tinyEncoderFolder('bert'));
    const names = ['cls.predictions.bias', 'cls.predictions.decoder.bias'];
    const of = (config: Partial<AdapterConfig>): Adapter => ({
      config: adapterConfig({ target_modules: ['query'], ...config }),
      tensors: new Map(names.map((name) => [name, { shape: [40], data: new Float32Array(40).fill(1) }])),
    });
    const whole = of({ modules_to_save: ['cls'] });
    const { model, adapter } = await fitted(base, whole, 'a');
    expect([...adapter.tensors.keys()]).toEqual([names[1]]);
    expect(new Set(stored(model, adapter).tensors.keys())).toEqual(new Set(names));
    const decoder = of({ modules_to_save: ['decoder'] });
    const own = await fitted(base, decoder, 'a');
    expect([...stored(own.model, own.adapter).tensors.keys()]).toEqual([names[1]]);
  });

  it('is refused by option where it computes what is not served', async () => {
    const given = (more: object) => ({
      config: adapterConfig({ target_modules: ['q_proj'], ...more }),
      tensors: new Map(),
    });
    const refused = (more: object) => expect(tied().then((base) => fitted(base, given(more), 'a'))).rejects;
    await refused({ others: { use_qalora: true } }).toThrow('a: adapter_config.json: use_qalora');
  });

  it('is refused by tensor for a pair on an embedding, and for a bias of B that nothing could take', async () => {
    const fit = async (names: string[], more: object) =>
      fitted(
        await tied(),
        {
          config: adapterConfig({ target_modules: ['q_proj'], ...more }),
          tensors: new Map(names.map((name) => [name, { shape: [1], data: new Float32Array(1) }])),
        },
        'a',
      );
    const embedded = 'model.embed_tokens.lora_embedding_A';
    await expect(fit([embedded], {})).rejects.toThrow(`a: tensor ${embedded}: pairs on an embedding are not served`);
    const pair = 'model.layers.0.self_attn.q_proj.lora_A.weight';
    await expect(fit([pair], { lora_bias: true })).rejects.toThrow(
      'lora_bias: model.layers.0.self_attn.q_proj has no bias',
    );
    await expect(fit([], { lora_bias: true, use_dora: true })).rejects.toThrow('PEFT has none beside use_dora');
  });
});
