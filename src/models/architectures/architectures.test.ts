import { describe, expect, it } from 'vitest';
import { InputError } from '../../formats/input-error.ts';
import { readAnyArchitecture, readArchitecture } from './index.ts';

const refused = (config: Record<string, unknown>): string => {
  try {
    readArchitecture(config, 'config.json');
  } catch (error) {
    if (error instanceof InputError) return error.message;
    throw error;
  }
  throw new Error('it was accepted');
};

describe('readArchitecture', () => {
  it('refuses what it does not know, by name', () => {
    expect(refused({ model_type: 'mamba' })).toMatch(/model_type: "mamba"/);
    expect(refused({})).toMatch(/model_type/);
  });
});

describe('encoders', () => {
  const bert = { model_type: 'bert', vocab_size: 50, hidden_size: 24, num_attention_heads: 2, num_hidden_layers: 2 };
  const read = (config: Record<string, unknown>, ...stored: string[]) =>
    readAnyArchitecture(config, 'config.json', new Set(stored));

  it('are what their files hold: bare or with a head', () => {
    const bare = read(bert, 'embeddings.word_embeddings.weight');
    expect(bare).toMatchObject({ kind: 'encoder', head: false, names: { layers: 'encoder.layer' } });
    const head = 'cls.predictions.transform.dense.weight';
    const whole = read(bert, 'bert.embeddings.word_embeddings.weight', head);
    expect(whole).toMatchObject({ head: true, names: { layers: 'bert.encoder.layer' }, type_vocab_size: 2 });
    const distilbert = read({ model_type: 'distilbert', dim: 24, n_heads: 2 }, 'vocab_transform.weight');
    expect(distilbert).toMatchObject({
      head: true,
      num_hidden_layers: 6,
      names: { embeddings: 'distilbert.embeddings' },
    });
  });

  it('refuse what would change the numbers', () => {
    expect(() => read({ ...bert, hidden_act: 'relu' })).toThrow('hidden_act');
    expect(() => read({ ...bert, position_embedding_type: 'relative_key' })).toThrow('position_embedding_type');
    expect(() => read({ ...bert, is_decoder: true })).toThrow('is_decoder');
    expect(() => read({ ...bert, num_attention_heads: 5 })).toThrow('num_attention_heads');
  });

  it('are refused in words where text is written', () => {
    expect(refused(bert)).toMatch(/"bert" is an encoder: it reads text and does not write it/);
  });
});

describe('gpt2', () => {
  const config = { model_type: 'gpt2', vocab_size: 50, n_embd: 24, n_head: 2, n_layer: 2 };

  it('takes what a config leaves out from transformers’ defaults', () => {
    const options = readArchitecture(config, 'config.json');
    expect(options).toMatchObject({
      intermediate_size: 96,
      max_position_embeddings: 1024,
      norm_eps: 1e-5,
      plain_mlp: 'tanh',
      tie_word_embeddings: true,
    });
    expect(options.attention_scale!(1)).toBe(1 / Math.sqrt(12));
  });

  it('scales scores as asked', () => {
    const scales = (more: object) =>
      [0, 1].map(readArchitecture({ ...config, ...more }, 'config.json').attention_scale!);
    expect(scales({ scale_attn_weights: false })).toEqual([1, 1]);
    expect(scales({ scale_attn_weights: false, scale_attn_by_inverse_layer_idx: true })).toEqual([1, 0.5]);
  });

  it('refuses what would change the numbers', () => {
    expect(refused({ ...config, activation_function: 'relu' })).toMatch(/activation_function: "relu"/);
    expect(refused({ ...config, add_cross_attention: true })).toMatch(/add_cross_attention/);
    expect(refused({ ...config, n_head: 5 })).toMatch(/n_head/);
  });
});
