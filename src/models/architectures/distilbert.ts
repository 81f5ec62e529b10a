/** DistilBERT: transformers' `DistilBertConfig`. BERT without token types; a masked-LM head or bare. */
import type { ConfigReader } from '../config.ts';
import type { EncoderOptions } from '../encoder.ts';
import { distilbertNames } from '../names.ts';
import { activationOf } from './activation.ts';
import { headDivides, prefixOf } from './shared.ts';

export function distilbert(config: ConfigReader, stored: ReadonlySet<string>): EncoderOptions {
  const names = distilbertNames(prefixOf('distilbert.', stored));
  const hidden_size = config.count('dim', 768);
  return {
    kind: 'encoder',
    vocab_size: config.count('vocab_size', 30522),
    hidden_size,
    num_hidden_layers: config.layers('n_layers', 6),
    num_attention_heads: headDivides(config, 'n_heads', hidden_size, 12),
    intermediate_size: config.count('hidden_dim', 3072),
    max_position_embeddings: config.count('max_position_embeddings', 512),
    // no field of the config: modeling_distilbert.py writes it out
    norm_eps: 1e-12,
    activation: activationOf(config, 'activation', 'gelu'),
    tie_word_embeddings: config.flag('tie_word_embeddings', true),
    names,
    head: stored.has(`${names.head_transform}.weight`),
  };
}

/** transformers' `attribute_map`. */
export const DISTILBERT_FIELDS: Readonly<Record<string, string>> = {
  num_hidden_layers: 'n_layers',
  hidden_size: 'dim',
  intermediate_size: 'hidden_dim',
  num_attention_heads: 'n_heads',
};
