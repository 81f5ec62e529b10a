/** The small decoder that tests train, for Node and pages alike: nothing is imported that only one of them has. */
import type { DecoderOptions } from '../models/decoder.ts';

export const options: DecoderOptions = {
  vocab_size: 64,
  hidden_size: 32,
  num_hidden_layers: 6,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  head_dim: 8,
  intermediate_size: 96,
  max_position_embeddings: 64,
  norm_eps: 1e-5,
  rotary: { theta: 10000, dims: 8, scaling: { kind: 'default' } },
  activation: 'silu',
  tie_word_embeddings: true,
  qkv_bias: true,
  output_bias: false,
  mlp_bias: false,
};
