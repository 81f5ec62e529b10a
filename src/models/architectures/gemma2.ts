/** Gemma 2: transformers' `Gemma2Config`. Scores and logits are soft-capped; every second layer has a window, the first one too. */
import type { ConfigReader } from '../config.ts';
import type { DecoderOptions } from '../decoder.ts';
import { GEMMA2_NAMES } from '../names.ts';
import { readRotary } from '../rotary.ts';
import { gemma, softcap } from './gemma.ts';

export function gemma2(config: ConfigReader): DecoderOptions {
  const options = gemma(config, {
    vocab_size: 256000,
    max_position_embeddings: 8192,
    slides: (layer) => layer % 2 === 0,
  });
  return {
    ...options,
    attn_logit_softcapping: softcap(config, 'attn_logit_softcapping', 50),
    final_logit_softcapping: softcap(config, 'final_logit_softcapping', 30),
    rotary: readRotary(config, options.head_dim),
    names: GEMMA2_NAMES,
  };
}
