import { describe, expect, it } from 'vitest';
import { baseParameters } from '../../models/model.ts';
import { SMOLLM2 } from '../bench/shapes.ts';
import { refuseTooLarge } from './too-large.ts';

/** DeepSeek-R1-Distill-Qwen-32B's config.json, where it differs. */
const R1_32B = {
  ...SMOLLM2,
  vocab_size: 152064,
  hidden_size: 5120,
  num_hidden_layers: 64,
  num_attention_heads: 40,
  num_key_value_heads: 8,
  head_dim: 128,
  intermediate_size: 27648,
  tie_word_embeddings: false,
  qkv_bias: true,
};
const laptop = { maxBufferSize: 4 * 2 ** 30, maxStorageBufferBindingSize: 2 * 2 ** 30 };

describe('a model too large for the adapter', () => {
  it('is refused by its config, with what would fit', () => {
    const model = { name: 'deepseek-ai/DeepSeek-R1-Distill-Qwen-32B', parameters: baseParameters(R1_32B) };
    expect(() => refuseTooLarge(model, laptop, 'teacher')).toThrow(
      'deepseek-ai/DeepSeek-R1-Distill-Qwen-32B: model.embed_tokens.weight: takes 3.1 GB in one piece (the whole model ' +
        '130 GB), too much for this graphics adapter: a model whose largest tensor takes at most 2.1 GB: ' +
        'a smaller one, or one with fewer words; or this one behind a server, on a machine that it fits (teacher.kind "endpoint")',
    );
  });

  it('is no small one, but where the adapter binds little', () => {
    const model = { name: 'SmolLM2', parameters: baseParameters(SMOLLM2) };
    expect(() => refuseTooLarge(model, laptop, 'student')).not.toThrow();
    const least = { maxBufferSize: 2 ** 28, maxStorageBufferBindingSize: 2 ** 26 };
    expect(() => refuseTooLarge(model, least, 'student')).toThrow('takes 0.11 GB in one piece');
    // held as int8 its embedding is a quarter
    const held = new Map([['model.embed_tokens.weight', 'int8' as const]]);
    expect(() => refuseTooLarge({ ...model, options: { held } }, least, 'student')).not.toThrow();
  });
});
