/** Llama 2, 3, 3.2, SmolLM, SmolLM2, the DeepSeek-R1 distillations onto Llama: transformers' `LlamaConfig`. */
import type { ConfigReader } from '../config.ts';
import type { DecoderOptions } from '../decoder.ts';
import { readRotary, type ReadRotary } from '../rotary.ts';
import { activationOf } from './activation.ts';

/** @param given what an architecture of this build has otherwise */
export function llama(config: ConfigReader, given: { head_dim?: number; rotary?: ReadRotary } = {}): DecoderOptions {
  config.only('pretraining_tp', 1);
  const hidden = config.count('hidden_size');
  const heads = config.count('num_attention_heads');
  const head_dim = config.count('head_dim', given.head_dim ?? Math.floor(hidden / heads));
  const bias = config.flag('attention_bias', false);
  const rotary = readRotary(config, head_dim, given.rotary);
  const { scaling } = rotary;
  const positions = config.count('max_position_embeddings', 2048);
  return {
    vocab_size: config.count('vocab_size'),
    hidden_size: hidden,
    num_hidden_layers: config.layers('num_hidden_layers'),
    num_attention_heads: heads,
    num_key_value_heads: config.count('num_key_value_heads', heads),
    head_dim,
    intermediate_size: config.count('intermediate_size'),
    // dynamic scaling stretches what the config states
    max_position_embeddings: scaling.kind === 'dynamic' ? Math.floor(positions * scaling.factor) : positions,
    norm_eps: config.positive('rms_norm_eps', 1e-6),
    rotary,
    tie_word_embeddings: config.flag('tie_word_embeddings', false),
    qkv_bias: bias,
    output_bias: bias,
    mlp_bias: config.flag('mlp_bias', false),
    activation: activationOf(config, 'hidden_act', 'silu'),
  };
}
