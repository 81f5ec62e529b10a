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
    expect(() => read({ ...bert, hidden_act: 'mish' })).toThrow('hidden_act');
    expect(() => read({ ...bert, position_embedding_type: 'relative_key' })).toThrow('position_embedding_type');
    expect(() => read({ ...bert, is_decoder: true })).toThrow('is_decoder');
    expect(() => read({ ...bert, num_attention_heads: 5 })).toThrow('num_attention_heads');
  });

  it('are refused in words where text is written', () => {
    expect(refused(bert)).toMatch(/"bert" is an encoder: it reads text and does not write it/);
  });
});

describe('activations', () => {
  it('are read by transformers’ names in every architecture', () => {
    const activation = (more: object) => readArchitecture({ ...LLAMA, ...more }, 'config.json').activation;
    expect(activation({})).toBe('silu');
    expect(activation({ hidden_act: 'swish' })).toBe('silu');
    expect(activation({ hidden_act: 'gelu' })).toBe('gelu');
    expect(activation({ hidden_act: 'gelu_fast' })).toBe('gelu_pytorch_tanh');
    expect(activation({ model_type: 'qwen2', hidden_act: 'quick_gelu' })).toBe('quick_gelu');
    expect(refused({ ...LLAMA, hidden_act: 'mish' })).toMatch(/hidden_act: "mish"/);
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
      plain_mlp: true,
      activation: 'gelu_pytorch_tanh',
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
    expect(refused({ ...config, activation_function: 'mish' })).toMatch(/activation_function: "mish"/);
    expect(refused({ ...config, add_cross_attention: true })).toMatch(/add_cross_attention/);
    expect(refused({ ...config, n_head: 5 })).toMatch(/n_head/);
  });
});

const LLAMA = {
  model_type: 'llama',
  vocab_size: 32,
  hidden_size: 16,
  intermediate_size: 24,
  num_hidden_layers: 3,
  num_attention_heads: 2,
  num_key_value_heads: 2,
  max_position_embeddings: 64,
};

describe('rotary settings', () => {
  const rotaryOf = (more: object) => readArchitecture({ ...LLAMA, ...more }, 'config.json').rotary;
  it('are the same in both spellings', () => {
    const settings = { rope_type: 'yarn', factor: 4, original_max_position_embeddings: 16 };
    expect(rotaryOf({ rope_theta: 5e5, rope_scaling: settings })).toEqual(
      rotaryOf({ rope_parameters: { rope_theta: 5e5, ...settings } }),
    );
    expect(rotaryOf({ rope_theta: 5e5 })!.theta).toBe(5e5);
    expect(rotaryOf({})!.theta).toBe(10000);
  });
  it('that are not known, or do not fit, are refused by name', () => {
    expect(refused({ ...LLAMA, rope_scaling: { type: 'mrope' } })).toMatch(/rope_scaling.type: "mrope"/);
    expect(refused({ ...LLAMA, rope_parameters: { mrope_section: [1, 2] } })).toMatch(/mrope_section/);
    expect(refused({ ...LLAMA, rope_scaling: { type: 'linear' } })).toMatch(/rope_scaling.factor: it is missing/);
    expect(refused({ ...LLAMA, partial_rotary_factor: 0.5 })).toMatch(
      /partial_rotary_factor: 0.5 is not served: transformers turns whole heads of llama/,
    );
    const longrope = { type: 'longrope', short_factor: [1, 1], long_factor: [1, 1, 1, 1] };
    expect(refused({ ...LLAMA, rope_scaling: longrope })).toMatch(/short_factor/);
  });
});

describe('sliding windows', () => {
  const windowsOf = (config: object) => {
    const { sliding_window, sliding_layers } = readArchitecture({ ...LLAMA, ...config }, 'config.json');
    return [sliding_window, sliding_layers];
  };
  it('mistral: over all layers, 4096 where a config says nothing, none where it says null', () => {
    expect(windowsOf({ model_type: 'mistral' })).toEqual([4096, undefined]);
    expect(windowsOf({ model_type: 'mistral', sliding_window: null })).toEqual([undefined, undefined]);
    expect(refused({ ...LLAMA, model_type: 'mistral', attention_bias: true })).toMatch(/attention_bias/);
  });
  it('qwen: from max_window_layers on, where used', () => {
    const window = { model_type: 'qwen2', sliding_window: 8, max_window_layers: 1 };
    expect(windowsOf(window)).toEqual([undefined, undefined]);
    expect(windowsOf({ ...window, use_sliding_window: true })).toEqual([8, [false, true, true]]);
  });
  it('gemma3: by layer_types, else every sixth layer sees all', () => {
    const gemma = { model_type: 'gemma3_text', num_hidden_layers: 7, head_dim: 8 };
    expect(windowsOf(gemma)[1]).toEqual([true, true, true, true, true, false, true]);
    const types = ['full_attention', 'sliding_attention', 'full_attention'];
    expect(windowsOf({ ...gemma, num_hidden_layers: 3, layer_types: types })[1]).toEqual([false, true, false]);
    expect(refused({ ...LLAMA, model_type: 'gemma3_text', layer_types: ['chunked'] })).toMatch(/layer_types/);
  });
});

describe('gemma2', () => {
  const gemma = { ...LLAMA, model_type: 'gemma2', head_dim: 8, query_pre_attn_scalar: 16 };
  it('caps scores and logits, by 50 and 30 where a config says nothing, not at all where it says null', () => {
    const caps = (more: object) => {
      const options = readArchitecture({ ...gemma, ...more }, 'config.json');
      return [options.attn_logit_softcapping, options.final_logit_softcapping];
    };
    expect(caps({})).toEqual([50, 30]);
    expect(caps({ attn_logit_softcapping: null, final_logit_softcapping: 20 })).toEqual([undefined, 20]);
    expect(refused({ ...gemma, final_logit_softcapping: 0 })).toMatch(/final_logit_softcapping/);
  });
  it('has a window in every second layer, the first one too, and one rotary', () => {
    const options = readArchitecture(gemma, 'config.json');
    expect(options.sliding_layers).toEqual([true, false, true]);
    expect(options.sliding_rotary).toBeUndefined();
    expect(options.attention_scale!(0)).toBe(0.25);
    expect(options.head_norm).toBeUndefined();
  });
});

describe('gemma3', () => {
  it('is read out of the config that wraps it, with the older spelling of its two rotaries', () => {
    const text = { ...LLAMA, model_type: undefined, head_dim: 8, rope_scaling: { rope_type: 'linear', factor: 8 } };
    const options = readArchitecture(
      { model_type: 'gemma3', eos_token_id: [1, 106], text_config: text },
      'config.json',
    );
    expect(options.rotary).toEqual({ theta: 1e6, dims: 8, scaling: { kind: 'linear', factor: 8 } });
    expect(options.sliding_rotary).toEqual({ theta: 1e4, dims: 8, scaling: { kind: 'default' } });
    expect(options).toMatchObject({ norm_offset: 1, tie_word_embeddings: true, embedding_scale: 4 });
  });
  it('caps logits, and refuses what transformers’ Gemma 3 does not compute: capped scores, sight in both directions', () => {
    const gemma = { ...LLAMA, model_type: 'gemma3_text', head_dim: 8 };
    const capped = readArchitecture({ ...gemma, final_logit_softcapping: 30 }, 'config.json');
    expect(capped.final_logit_softcapping).toBe(30);
    expect(refused({ ...gemma, attn_logit_softcapping: 50 })).toMatch(/attn_logit_softcapping: 50/);
    expect(refused({ ...gemma, use_bidirectional_attention: true })).toMatch(/use_bidirectional_attention/);
  });
});
