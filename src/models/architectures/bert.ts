/**
 * BERT and its smaller kin (TinyBERT, MiniLM): transformers' `BertConfig`, with a masked-LM head or bare. What the file
 * holds decides whether names have the prefix `bert.` and whether there is a head.
 */
import type { ConfigReader } from '../config.ts';
import type { EncoderOptions } from '../encoder.ts';
import { bertNames } from '../names.ts';
import { activationOf } from './activation.ts';
import { headDivides, prefixOf } from './shared.ts';

export function bert(config: ConfigReader, stored: ReadonlySet<string>): EncoderOptions {
  config.only('position_embedding_type', 'absolute');
  config.only('is_decoder', false);
  config.only('add_cross_attention', false);
  const names = bertNames(prefixOf('bert.', stored));
  const hidden_size = config.count('hidden_size', 768);
  return {
    kind: 'encoder',
    vocab_size: config.count('vocab_size', 30522),
    hidden_size,
    num_hidden_layers: config.layers('num_hidden_layers', 12),
    num_attention_heads: headDivides(config, 'num_attention_heads', hidden_size),
    intermediate_size: config.count('intermediate_size', 3072),
    max_position_embeddings: config.count('max_position_embeddings', 512),
    type_vocab_size: config.count('type_vocab_size', 2),
    norm_eps: config.positive('layer_norm_eps', 1e-12),
    activation: activationOf(config, 'hidden_act', 'gelu'),
    tie_word_embeddings: config.flag('tie_word_embeddings', true),
    names,
    head: stored.has(`${names.head_transform}.weight`),
  };
}
