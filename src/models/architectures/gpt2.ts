/**
 * GPT-2 and DistilGPT2: transformers' `GPT2Config`. Learned positions, LayerNorm, one projection for q, k and v, a plain
 * MLP, biases everywhere, and linear weights that lie [in, out] (Conv1D). The dropouts of a config are not applied.
 */
import type { ConfigReader } from '../config.ts';
import type { DecoderOptions } from '../decoder.ts';
import { GPT2_NAMES } from '../names.ts';
import { headDivides } from './shared.ts';
import { activationOf } from './activation.ts';

export function gpt2(config: ConfigReader): DecoderOptions {
  config.only('add_cross_attention', false);
  const hidden = config.count('n_embd', 768);
  const heads = headDivides(config, 'n_head', hidden);
  const head_dim = hidden / heads;
  const scale = config.flag('scale_attn_weights', true) ? 1 / Math.sqrt(head_dim) : 1;
  const byLayer = config.flag('scale_attn_by_inverse_layer_idx', false);
  return {
    vocab_size: config.count('vocab_size', 50257),
    hidden_size: hidden,
    num_hidden_layers: config.layers('n_layer', 12),
    num_attention_heads: heads,
    num_key_value_heads: heads,
    head_dim,
    intermediate_size: config.count('n_inner', 4 * hidden),
    max_position_embeddings: config.count('n_positions', 1024),
    norm: 'layernorm',
    norm_eps: config.positive('layer_norm_epsilon', 1e-5),
    tie_word_embeddings: config.flag('tie_word_embeddings', true),
    qkv_bias: true,
    output_bias: true,
    mlp_bias: true,
    plain_mlp: true,
    activation: activationOf(config, 'activation_function', 'gelu_new'),
    attention_scale: (layer) => (byLayer ? scale / (layer + 1) : scale),
    conv1d: true,
    names: GPT2_NAMES,
  };
}

/** transformers' `attribute_map`. */
export const GPT2_FIELDS: Readonly<Record<string, string>> = {
  num_hidden_layers: 'n_layer',
  hidden_size: 'n_embd',
  intermediate_size: 'n_inner',
  num_attention_heads: 'n_head',
  max_position_embeddings: 'n_positions',
};
