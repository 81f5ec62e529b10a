/**
 * What Gemma 2 and 3 share: norms that lie as w − 1, before and after attention and MLP; embeddings times √hidden; a GELU
 * gate; scores over √query_pre_attn_scalar; layers with a window between those that see all; soft caps.
 */
import type { ConfigReader } from '../config.ts';
import type { DecoderOptions } from '../decoder.ts';
import { activationOf } from './activation.ts';
import { slidingLayers } from './sliding.ts';

/** Where the two differ: the longest text, and which layers have a window where the config does not list them. */
interface GemmaHabits {
  readonly vocab_size: number;
  readonly max_position_embeddings: number;
  readonly slides: (layer: number) => boolean;
}

export function gemma(config: ConfigReader, habits: GemmaHabits): Omit<DecoderOptions, 'names' | 'rotary'> {
  config.only('use_bidirectional_attention', false);
  const hidden = config.count('hidden_size', 2304);
  const bias = config.flag('attention_bias', false);
  const scale = 1 / Math.sqrt(config.positive('query_pre_attn_scalar', 256));
  return {
    vocab_size: config.count('vocab_size', habits.vocab_size),
    hidden_size: hidden,
    num_hidden_layers: config.layers('num_hidden_layers'),
    num_attention_heads: config.count('num_attention_heads', 8),
    num_key_value_heads: config.count('num_key_value_heads', 4),
    head_dim: config.count('head_dim', 256),
    intermediate_size: config.count('intermediate_size', 9216),
    max_position_embeddings: config.count('max_position_embeddings', habits.max_position_embeddings),
    norm_eps: config.positive('rms_norm_eps', 1e-6),
    norm_offset: 1,
    embedding_scale: Math.sqrt(hidden),
    attention_scale: () => scale,
    activation: activationOf(config, 'hidden_activation', 'gelu_pytorch_tanh'),
    tie_word_embeddings: config.flag('tie_word_embeddings', true),
    qkv_bias: bias,
    output_bias: bias,
    mlp_bias: false,
    sliding_window: config.count('sliding_window', 4096),
    sliding_layers: slidingLayers(config, habits.slides),
  };
}

/** A cap, or none where the config says null. @param otherwise where it says nothing */
export function softcap(config: ConfigReader, field: string, otherwise?: number): number | undefined {
  const given = config.raw[field];
  return given === null || (given === undefined && otherwise === undefined)
    ? undefined
    : config.positive(field, otherwise);
}
