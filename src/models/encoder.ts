/**
 * The one encoder: token ids ─▶ hidden states that see both ways, and a masked-LM head where the model has one. An
 * architecture is a reading of its `config.json` into these options (architectures/), as for decoders.
 *
 *   x = norm(embed(ids) + position + type(ids));  per layer: x = norm(x + attention(x)); x = norm(x + mlp(x))
 *   logits = norm(activation(transform(x))) Wᵀ + b, W the embedding where tied
 */
import type { Graph } from '../engine/graph/graph.ts';
import type { PackedDType } from '../engine/graph/packing.ts';
import type { Dim, Value } from '../engine/graph/types.ts';
import {
  activation,
  add,
  addForgotten,
  attention,
  embedding,
  layernorm,
  matmul,
  positions,
  type ActivationName,
} from '../engine/ops/index.ts';
import { loraOf, trained, type DecoderChoices } from './decoder.ts';
import type { EncoderNames } from './names.ts';

export interface EncoderOptions {
  readonly kind: 'encoder';
  readonly vocab_size: number;
  readonly hidden_size: number;
  readonly num_hidden_layers: number;
  readonly num_attention_heads: number;
  /** hidden_size / num_attention_heads where absent, as in every config; cut.ts asks with another. */
  readonly head_dim?: number;
  readonly intermediate_size: number;
  readonly max_position_embeddings: number;
  /** Kinds of token that are told apart (first and second sentence); undefined: none. */
  readonly type_vocab_size?: number;
  readonly norm_eps: number;
  readonly activation: ActivationName;
  readonly tie_word_embeddings: boolean;
  readonly names: EncoderNames;
  /** Whether there is a masked-LM head; a bare encoder gives hidden states only. */
  readonly head: boolean;
  /** Weights that the device holds packed, by hub name (held.ts); f32 where absent. */
  readonly held?: ReadonlyMap<string, PackedDType>;
}

export interface EncoderInputs {
  /** i32 [batch, tokens] */
  readonly input_ids: Value;
  /** i32 [batch, tokens]: 0 is padding; tokens see those of their own segment only. */
  readonly segments: Value;
  /** i32 [batch, tokens]; absent: each token's place in its row. */
  readonly position_ids?: Value;
  /** i32 [batch, tokens], where the model tells types apart. */
  readonly token_type_ids?: Value;
}

export interface EncoderOutputs {
  /** f32 [batch, tokens, hidden] */
  readonly hidden: Value;
  /** As transformers' `hidden_states`: embeddings after their norm, then each layer's output. */
  readonly hidden_states: readonly Value[];
  readonly head?: MaskedLmHead;
}

/** logits = hidden weightᵀ + bias */
export interface MaskedLmHead {
  /** f32 [batch, tokens, hidden]: transformed; longer by the rank of a pair on the head. */
  readonly hidden: Value;
  /** f32 [vocab, width of `hidden`] */
  readonly weight: Value;
  /** f32 [vocab] */
  readonly bias: Value;
}

export function encoder(
  graph: Graph,
  options: EncoderOptions,
  inputs: EncoderInputs,
  choices: DecoderChoices = {},
): EncoderOutputs {
  const { hidden_size: H, num_attention_heads: heads, names } = options;
  const { head_dim = H / heads } = options;
  const trainable = trained(choices);
  const weight = (name: string, shape: Dim[]): Value =>
    graph.parameter(name, shape, { trainable: trainable(name), dtype: options.held?.get(name) });
  const lora = loraOf(graph, choices.adapter);

  const linear = (path: string, x: Value, outputs: number, plus = add): Value => {
    const w = weight(`${path}.weight`, [outputs, x.type.shape.at(-1)!]);
    const y = lora.linear(path, { x, w, y: matmul(x, w, { transB: true }), conv1d: false });
    return plus(y, weight(`${path}.bias`, [outputs]));
  };
  const norm = (path: string, x: Value): Value =>
    layernorm(x, weight(`${path}.weight`, [H]), weight(`${path}.bias`, [H]), { eps: options.norm_eps });
  const activated = (x: Value): Value => activation(x, options.activation);
  const table = (name: string, rows: number): Value => weight(`${names.embeddings}.${name}.weight`, [rows, H]);

  const embeddings = table('word_embeddings', options.vocab_size);
  let x = embedding(embeddings, inputs.input_ids);
  if (options.type_vocab_size !== undefined) {
    x = add(x, embedding(table('token_type_embeddings', options.type_vocab_size), inputs.token_type_ids!));
  }
  const places = table('position_embeddings', options.max_position_embeddings);
  x = add(x, embedding(places, inputs.position_ids ?? positions(inputs.input_ids)));
  x = norm(`${names.embeddings}.LayerNorm`, x);

  const states = [x];
  const seen = { heads, kv_heads: heads, head_dim, scale: 1 / Math.sqrt(head_dim), causal: false };
  const layer = (path: string, x: Value): Value => {
    const [q, k, v] = names.qkv.map((name, i) =>
      // What is the same for all keys of a query moves no softmax.
      linear(`${path}.${name}`, x, heads * head_dim, i === 1 ? addForgotten : add),
    ) as [Value, Value, Value];
    const [attended] = attention(q, k, v, inputs.segments, inputs.segments, seen);
    const y = norm(
      `${path}.${names.attention_norm}`,
      add(x, linear(`${path}.${names.attention_output}`, attended!, H)),
    );
    const inner = activated(linear(`${path}.${names.up}`, y, options.intermediate_size));
    return norm(`${path}.${names.mlp_norm}`, add(y, linear(`${path}.${names.down}`, inner, H)));
  };
  for (let i = 0; i < options.num_hidden_layers; i++) {
    x = graph.block(() => layer(`${names.layers}.${i}`, states[i]!));
    states.push(x);
  }
  if (!options.head) return { hidden: x, hidden_states: states };
  const transformed = norm(names.head_norm, activated(linear(names.head_transform, x, H)));
  const weights = options.tie_word_embeddings ? embeddings : weight(`${names.head}.weight`, [options.vocab_size, H]);
  const head = {
    ...lora.head(names.head, { hidden: transformed, weight: weights }),
    bias: weight(options.tie_word_embeddings ? names.tied_bias : `${names.head}.bias`, [options.vocab_size]),
  };
  return { hidden: x, hidden_states: states, head };
}

/** f32 [batch, tokens, vocab] */
export function maskedLmLogits({ hidden, weight, bias }: MaskedLmHead): Value {
  return add(matmul(hidden, weight, { transB: true }), bias);
}
