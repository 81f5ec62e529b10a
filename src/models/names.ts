/** What decoders' parts are called on the hub: transformers' module paths. */

export interface DecoderNames {
  /** Before a layer's number, without the dot. */
  readonly layers: string;
  readonly embedding: string;
  /** Learned positions, where there are any. */
  readonly positions?: string;
  readonly final_norm: string;
  /** Within a layer. */
  readonly attention_norm: string;
  /** One projection for q, k and v, or one each. */
  readonly qkv: string | readonly [string, string, string];
  /** Of each head's q and k. */
  readonly query_norm?: string;
  readonly key_norm?: string;
  readonly attention_output: string;
  /** Of what attention, or the MLP, adds to the stream. */
  readonly after_attention_norm?: string;
  readonly mlp_norm: string;
  readonly after_mlp_norm?: string;
  /** Of a gated MLP whose `up` does not give both, the gate first. */
  readonly gate?: string;
  readonly up: string;
  readonly down: string;
}

export const LLAMA_NAMES: DecoderNames = {
  layers: 'model.layers',
  embedding: 'model.embed_tokens',
  final_norm: 'model.norm',
  attention_norm: 'input_layernorm',
  qkv: ['self_attn.q_proj', 'self_attn.k_proj', 'self_attn.v_proj'],
  attention_output: 'self_attn.o_proj',
  mlp_norm: 'post_attention_layernorm',
  gate: 'mlp.gate_proj',
  up: 'mlp.up_proj',
  down: 'mlp.down_proj',
};

export const QWEN3_NAMES: DecoderNames = {
  ...LLAMA_NAMES,
  query_norm: 'self_attn.q_norm',
  key_norm: 'self_attn.k_norm',
};

export const PHI3_NAMES: DecoderNames = {
  ...LLAMA_NAMES,
  qkv: 'self_attn.qkv_proj',
  gate: undefined,
  up: 'mlp.gate_up_proj',
};

export const GEMMA2_NAMES: DecoderNames = {
  ...LLAMA_NAMES,
  after_attention_norm: 'post_attention_layernorm',
  mlp_norm: 'pre_feedforward_layernorm',
  after_mlp_norm: 'post_feedforward_layernorm',
};

export const GEMMA3_NAMES: DecoderNames = {
  ...GEMMA2_NAMES,
  query_norm: 'self_attn.q_norm',
  key_norm: 'self_attn.k_norm',
};

export const GPT2_NAMES: DecoderNames = {
  layers: 'transformer.h',
  embedding: 'transformer.wte',
  positions: 'transformer.wpe',
  final_norm: 'transformer.ln_f',
  attention_norm: 'ln_1',
  qkv: 'attn.c_attn',
  attention_output: 'attn.c_proj',
  mlp_norm: 'ln_2',
  up: 'mlp.c_fc',
  down: 'mlp.c_proj',
};

export interface EncoderNames {
  /** Before word_embeddings, position_embeddings …, without the dot. */
  readonly embeddings: string;
  readonly layers: string;
  /** Within a layer. */
  readonly qkv: readonly [string, string, string];
  readonly attention_output: string;
  readonly attention_norm: string;
  readonly up: string;
  readonly down: string;
  readonly mlp_norm: string;
  /** Of the masked-LM head. */
  readonly head_transform: string;
  readonly head_norm: string;
  readonly head: string;
  /** The head's bias where its weight is the embedding. */
  readonly tied_bias: string;
}

/** @param prefix 'bert.', or '' of a bare `BertModel` */
export const bertNames = (prefix: string): EncoderNames => ({
  embeddings: `${prefix}embeddings`,
  layers: `${prefix}encoder.layer`,
  qkv: ['attention.self.query', 'attention.self.key', 'attention.self.value'],
  attention_output: 'attention.output.dense',
  attention_norm: 'attention.output.LayerNorm',
  up: 'intermediate.dense',
  down: 'output.dense',
  mlp_norm: 'output.LayerNorm',
  head_transform: 'cls.predictions.transform.dense',
  head_norm: 'cls.predictions.transform.LayerNorm',
  head: 'cls.predictions.decoder',
  tied_bias: 'cls.predictions.bias',
});

/** @param prefix 'distilbert.', or '' of a bare `DistilBertModel` */
export const distilbertNames = (prefix: string): EncoderNames => ({
  embeddings: `${prefix}embeddings`,
  layers: `${prefix}transformer.layer`,
  qkv: ['attention.q_lin', 'attention.k_lin', 'attention.v_lin'],
  attention_output: 'attention.out_lin',
  attention_norm: 'sa_layer_norm',
  up: 'ffn.lin1',
  down: 'ffn.lin2',
  mlp_norm: 'output_layer_norm',
  head_transform: 'vocab_transform',
  head_norm: 'vocab_layer_norm',
  head: 'vocab_projector',
  tied_bias: 'vocab_projector.bias',
});
