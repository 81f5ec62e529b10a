/**
 * Either kind of model as what trains, teaches and is compared sees it: hidden states, and the head that makes logits of
 * them. A decoder's logits at a place are of the next token, an encoder's of the token at that place, which may be masked.
 */
import type { Graph } from '../engine/graph/graph.ts';
import type { Value } from '../engine/graph/types.ts';
import { add, matmul, softcap } from '../engine/ops/index.ts';
import { isEncoder, type ModelOptions } from './architectures/index.ts';
import { decoder, headName as decoderHeadName, type DecoderChoices } from './decoder.ts';
import { encoder } from './encoder.ts';

/** logits = softcap(hidden weightᵀ + bias) */
export interface Head {
  /** f32 [batch, tokens, hidden] */
  readonly hidden: Value;
  /** f32 [vocab, hidden] */
  readonly weight: Value;
  /** f32 [vocab]: masked-LM heads have one. */
  readonly bias?: Value;
  /** Bounds the logits: cap · tanh(logits / cap). */
  readonly softcap?: number;
}

export interface LanguageModel {
  /** As transformers' `hidden_states`. */
  readonly hidden_states: readonly Value[];
  /** undefined of a bare encoder. */
  readonly head?: Head;
}

/**
 * @param ids makes an input i32 [batch, tokens]: `input_ids`, `position_ids`, `segments` (0 is padding; tokens see those of
 *   their own), and an encoder's `token_type_ids`
 */
export function languageModel(
  graph: Graph,
  options: ModelOptions,
  ids: (name: string) => Value,
  choices: DecoderChoices = {},
): LanguageModel {
  const segments = ids('segments');
  const input_ids = ids('input_ids');
  const position_ids = ids('position_ids');
  if (isEncoder(options)) {
    const inputs = { input_ids, position_ids, segments, token_type_ids: ids('token_type_ids') };
    return encoder(graph, options, inputs, choices);
  }
  const inputs = { input_ids, position_ids, query_segments: segments, key_segments: segments };
  const { hidden, head, hidden_states } = decoder(graph, options, inputs, choices);
  return { head: { hidden, weight: head, softcap: options.final_logit_softcapping }, hidden_states };
}

/** Whole logits, f32 [batch, tokens, vocab]: what is compared; training never has them. */
export function wholeLogits({ hidden, weight, bias, softcap: cap }: Head): Value {
  const product = matmul(hidden, weight, { transB: true });
  const logits = bias ? add(product, bias) : product;
  return cap === undefined ? logits : softcap(logits, cap);
}

/** Which gradients of the head `linear-loss` must make: of a weight that is trained, whole, in rows or beside a pair. */
export function headGradients(
  graph: Graph,
  { weight, bias }: Head,
): { readonly weightGradient: boolean; readonly biasGradient: boolean } {
  return { weightGradient: graph.isTrained(weight), biasGradient: bias !== undefined && graph.isTrained(bias) };
}

/** The weight that gives the logits: the embedding where they are tied. */
export function headName(options: ModelOptions): string {
  if (!isEncoder(options)) return decoderHeadName(options);
  const { names, tie_word_embeddings } = options;
  return tie_word_embeddings ? `${names.embeddings}.word_embeddings.weight` : `${names.head}.weight`;
}
