/**
 * How llama.cpp's converter names and changes the tensors of each architecture (convert_hf_to_gguf.py, gguf-py
 * tensor_mapping.py), and what its metadata says of the hub's config.json. One entry an architecture.
 */
import type { GgufFile, GgufValue } from './gguf.ts';
import { InputError } from './input-error.ts';
import type { JsonObject } from './strict-json.ts';
import { findTensor } from './tensor-file.ts';

/** What was done to a tensor on its way into the file. */
export type Change = { kind: 'permuted'; heads: number } | { kind: 'plus one' } | { kind: 'transposed' } | undefined;

export interface Architecture {
  /** ggml's names without number and `.weight`: blocks under `blk`, the rest under `top`. */
  readonly top: Readonly<Record<string, string>>;
  readonly blk: Readonly<Record<string, string>>;
  /** Hub prefix of block i, with its final dot. */
  readonly block: (i: string) => string;
  readonly change: (ggmlName: string, values: Pick<Metadata, 'count'>) => Change;
  readonly config: (values: Metadata, file: GgufFile) => JsonObject;
}

const decoderTop = { token_embd: 'model.embed_tokens', output_norm: 'model.norm', output: 'lm_head' };
const decoderBlock = {
  attn_norm: 'input_layernorm',
  attn_q: 'self_attn.q_proj',
  attn_k: 'self_attn.k_proj',
  attn_v: 'self_attn.v_proj',
  attn_output: 'self_attn.o_proj',
  ffn_norm: 'post_attention_layernorm',
  ffn_gate: 'mlp.gate_proj',
  ffn_up: 'mlp.up_proj',
  ffn_down: 'mlp.down_proj',
};
const sandwichNorms = {
  post_attention_norm: 'post_attention_layernorm',
  ffn_norm: 'pre_feedforward_layernorm',
  post_ffw_norm: 'post_feedforward_layernorm',
};
const headNorms = { attn_q_norm: 'self_attn.q_norm', attn_k_norm: 'self_attn.k_norm' };
const modelLayers = (i: string) => `model.layers.${i}.`;
const unchanged = () => undefined;
const normsPlusOne = (name: string): Change => (/norm\.weight$/.test(name) ? { kind: 'plus one' } : undefined);
/** The file does not say how scores are scaled: by the head size, but for the 27B of each Gemma, known by its layers. */
const gemmaScalar = (shared: ReturnType<typeof decoderConfig>, layersOf27B: number): number =>
  shared.num_hidden_layers === layersOf27B ? shared.hidden_size / shared.num_attention_heads : shared.head_dim;

export const architectures: Readonly<Record<string, Architecture>> = {
  // Llama, Mistral, SmolLM and others of their build.
  llama: {
    top: decoderTop,
    blk: decoderBlock,
    block: modelLayers,
    change(name, values) {
      const heads = values.count('attention.head_count');
      if (/attn_q\.(weight|bias)$/.test(name)) return { kind: 'permuted', heads };
      if (/attn_k\.(weight|bias)$/.test(name)) {
        return { kind: 'permuted', heads: values.count('attention.head_count_kv', heads) };
      }
      return undefined;
    },
    config(values, file) {
      const window = values.number('attention.sliding_window', 0);
      return {
        architectures: [window > 0 ? 'MistralForCausalLM' : 'LlamaForCausalLM'],
        model_type: window > 0 ? 'mistral' : 'llama',
        ...decoderConfig(values, file),
        hidden_act: 'silu',
        attention_bias: file.tensors.has('blk.0.attn_q.bias'),
        mlp_bias: file.tensors.has('blk.0.ffn_up.bias'),
        ...(window > 0 ? { sliding_window: window } : {}),
      };
    },
  },
  qwen2: {
    top: decoderTop,
    blk: decoderBlock,
    block: modelLayers,
    change: unchanged,
    config: (values, file) => ({
      architectures: ['Qwen2ForCausalLM'],
      model_type: 'qwen2',
      ...decoderConfig(values, file),
      hidden_act: 'silu',
      use_sliding_window: false,
    }),
  },
  qwen3: {
    top: decoderTop,
    blk: { ...decoderBlock, ...headNorms },
    block: modelLayers,
    change: unchanged,
    config: (values, file) => ({
      architectures: ['Qwen3ForCausalLM'],
      model_type: 'qwen3',
      ...decoderConfig(values, file),
      hidden_act: 'silu',
      attention_bias: file.tensors.has('blk.0.attn_q.bias'),
      use_sliding_window: false,
    }),
  },
  phi3: {
    top: decoderTop,
    blk: { ...decoderBlock, attn_qkv: 'self_attn.qkv_proj', ffn_up: 'mlp.gate_up_proj' },
    block: modelLayers,
    change: unchanged,
    config(values, file) {
      const shared = decoderConfig(values, file);
      const rotated = values.number('rope.dimension_count', shared.head_dim);
      const original = values.number('rope.scaling.original_context_length', shared.max_position_embeddings);
      return {
        architectures: ['Phi3ForCausalLM'],
        model_type: 'phi3',
        ...shared,
        hidden_act: 'silu',
        original_max_position_embeddings: original,
        partial_rotary_factor: rotated / shared.head_dim,
        sliding_window: values.number('attention.sliding_window', 0) || null,
      };
    },
  },
  gemma2: {
    top: decoderTop,
    blk: { ...decoderBlock, ...sandwichNorms },
    block: modelLayers,
    change: normsPlusOne,
    config(values, file) {
      const shared = decoderConfig(values, file);
      return {
        architectures: ['Gemma2ForCausalLM'],
        model_type: 'gemma2',
        ...shared,
        hidden_activation: 'gelu_pytorch_tanh',
        query_pre_attn_scalar: gemmaScalar(shared, 46),
        sliding_window: values.count('attention.sliding_window', 4096),
        attention_bias: false,
        attn_logit_softcapping: values.number('attn_logit_softcapping', 50),
        final_logit_softcapping: values.number('final_logit_softcapping', 30),
      };
    },
  },
  gemma3: {
    top: decoderTop,
    blk: { ...decoderBlock, ...headNorms, ...sandwichNorms },
    block: modelLayers,
    change: normsPlusOne,
    config(values, file) {
      const shared = decoderConfig(values, file);
      return {
        architectures: ['Gemma3ForCausalLM'],
        model_type: 'gemma3_text',
        ...shared,
        hidden_activation: 'gelu_pytorch_tanh',
        query_pre_attn_scalar: gemmaScalar(shared, 62),
        sliding_window: values.count('attention.sliding_window'),
        sliding_window_pattern: 6,
        rope_local_base_freq: 10000,
        attention_bias: false,
        attn_logit_softcapping: null,
        final_logit_softcapping: values.number('final_logit_softcapping', 0) || null,
      };
    },
  },
  gpt2: {
    top: {
      token_embd: 'transformer.wte',
      position_embd: 'transformer.wpe',
      output_norm: 'transformer.ln_f',
      output: 'lm_head',
    },
    blk: {
      attn_norm: 'ln_1',
      attn_qkv: 'attn.c_attn',
      attn_output: 'attn.c_proj',
      ffn_norm: 'ln_2',
      ffn_up: 'mlp.c_fc',
      ffn_down: 'mlp.c_proj',
    },
    block: (i) => `transformer.h.${i}.`,
    change: (name) => (/(qkv|attn_output|ffn_up|ffn_down)\.weight$/.test(name) ? { kind: 'transposed' } : undefined),
    config: (values, file) => ({
      architectures: ['GPT2LMHeadModel'],
      model_type: 'gpt2',
      vocab_size: vocabularyOf(file),
      n_embd: values.count('embedding_length'),
      n_layer: values.count('block_count'),
      n_head: values.count('attention.head_count'),
      n_inner: values.count('feed_forward_length'),
      n_positions: values.count('context_length'),
      layer_norm_epsilon: values.number('attention.layer_norm_epsilon', 1e-5),
      activation_function: 'gelu_new',
      tie_word_embeddings: isTied(file),
      ...specialTokens(values),
    }),
  },
};

/** Tensors that hold rotary factors, not parameters: they go into the config. */
export const ropeTensors = new Set(['rope_freqs.weight', 'rope_factors_long.weight', 'rope_factors_short.weight']);

export function hubName(architecture: Architecture, ggmlName: string): string | undefined {
  const [, block, part, kind] = /^(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)$/.exec(ggmlName) ?? [];
  if (part === undefined || kind === undefined) return undefined;
  const names = block === undefined ? architecture.top : architecture.blk;
  if (!Object.hasOwn(names, part)) return undefined;
  return `${block === undefined ? '' : architecture.block(block)}${names[part]}.${kind}`;
}

/** The other way: ggml's name of a hub tensor. */
export function ggmlName({ top, blk, block }: Architecture, hub: string): string | undefined {
  const [, path, kind] = /^(.*)\.(weight|bias)$/.exec(hub) ?? [];
  if (path === undefined) return undefined;
  const [, layer] = /\.(\d+)\./.exec(path) ?? [];
  const inBlock = layer !== undefined && path.startsWith(block(layer));
  const part = inBlock ? path.slice(block(layer).length) : path;
  const found = Object.entries(inBlock ? blk : top).find(([, name]) => name === part);
  return found && `${inBlock ? `blk.${layer}.` : ''}${found[0]}.${kind}`;
}

function decoderConfig(values: Metadata, file: GgufFile) {
  const hiddenSize = values.count('embedding_length');
  const heads = values.count('attention.head_count');
  return {
    vocab_size: vocabularyOf(file),
    hidden_size: hiddenSize,
    intermediate_size: values.count('feed_forward_length'),
    num_hidden_layers: values.count('block_count'),
    num_attention_heads: heads,
    num_key_value_heads: values.count('attention.head_count_kv', heads),
    head_dim: values.count('attention.key_length', hiddenSize / heads),
    max_position_embeddings: values.count('context_length'),
    rms_norm_eps: values.number('attention.layer_norm_rms_epsilon'),
    rope_theta: values.number('rope.freq_base', 10000),
    tie_word_embeddings: isTied(file),
    ...specialTokens(values),
  };
}

/** The embedding is the truth; `vocab_size` of the metadata is optional and has been seen to differ. */
function vocabularyOf(file: GgufFile): number {
  return findTensor(file.name, file.tensors, 'token_embd.weight').shape[0] ?? 0;
}

function isTied(file: GgufFile): boolean {
  return !file.tensors.has('output.weight');
}

function specialTokens(values: Metadata) {
  return {
    bos_token_id: values.tokenId('bos'),
    eos_token_id: values.tokenId('eos'),
    pad_token_id: values.tokenId('padding'),
  };
}

export async function ropeScaling(values: Metadata, file: GgufFile): Promise<JsonObject> {
  const long = 'rope_factors_long.weight';
  const short = 'rope_factors_short.weight';
  if (file.tensors.has(long) && file.tensors.has(short)) {
    const factors = async (name: string) => [...(await file.readF32(name))].map(shortest);
    const gain = values.number('rope.scaling.attn_factor', 0);
    return {
      rope_scaling: {
        type: 'longrope',
        long_factor: await factors(long),
        short_factor: await factors(short),
        ...(gain > 0 ? { attention_factor: gain } : {}),
      },
    };
  }
  if (file.tensors.has('rope_freqs.weight')) return { rope_scaling: await llama3Scaling(values, file) };
  const type = values.string('rope.scaling.type', 'none');
  if (type === 'none') return {};
  if (type !== 'linear' && type !== 'yarn') {
    throw new InputError(
      file.name,
      `metadata ${values.key('rope.scaling.type')}`,
      `it is ${type}`,
      'none, linear, yarn',
    );
  }
  const original = values.number('rope.scaling.original_context_length', 0);
  return {
    rope_scaling: {
      rope_type: type,
      factor: values.number('rope.scaling.factor'),
      ...(original > 0 ? { original_max_position_embeddings: original } : {}),
    },
  };
}

/** Llama 3's factors are stored one a frequency; the three constants that made them are the same in every release. */
async function llama3Scaling(values: Metadata, file: GgufFile): Promise<JsonObject> {
  const factors = await file.readF32('rope_freqs.weight');
  const scaling = {
    rope_type: 'llama3',
    factor: shortest(factors.reduce((a, b) => Math.max(a, b), 1)),
    low_freq_factor: 1,
    high_freq_factor: 4,
    original_max_position_embeddings: values.count('rope.scaling.original_context_length', 8192),
  };
  const theta = values.number('rope.freq_base', 10000);
  for (let i = 0; i < factors.length; i++) {
    const turns = scaling.original_max_position_embeddings / (2 * Math.PI * theta ** (i / factors.length)); // of the original context by this frequency
    const smooth = (turns - 1) / 3;
    const expected = turns < 1 ? scaling.factor : turns > 4 ? 1 : 1 / ((1 - smooth) / scaling.factor + smooth);
    if (!(Math.abs(factors[i]! - expected) <= 1e-3 * expected)) {
      throw new InputError(
        file.name,
        'tensor rope_freqs.weight',
        "its factors are not those of Llama 3's releases",
        'the original config.json beside the file',
      );
    }
  }
  return scaling;
}

/** The shortest decimal that is the same f32: 1e-5 and not 9.999999747378752e-6. */
function shortest(value: number): number {
  for (let digits = 1; digits < 9; digits++) {
    const rounded = Number(value.toPrecision(digits));
    if (Math.fround(rounded) === Math.fround(value)) return rounded;
  }
  return value;
}

/** Values under the architecture's prefix, checked as they are used. */
export class Metadata {
  constructor(private readonly file: GgufFile) {}

  key(name: string): string {
    return `${this.file.architecture}.${name}`;
  }

  private get(name: string): GgufValue | undefined {
    return this.file.values.get(this.key(name));
  }

  number(name: string, otherwise?: number): number {
    const value = this.get(name) ?? otherwise;
    if (typeof value !== 'number' || !Number.isFinite(value)) throw this.refuse(name, value, 'a number');
    return shortest(value);
  }

  /** A whole number from 1. */
  count(name: string, otherwise?: number): number {
    const value = this.get(name) ?? otherwise;
    if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 1) {
      throw this.refuse(name, value, 'a whole number from 1');
    }
    return value;
  }

  string(name: string, otherwise: string): string {
    const value = this.get(name) ?? otherwise;
    if (typeof value !== 'string') throw this.refuse(name, value, 'a string');
    return value;
  }

  tokenId(kind: string): number | null {
    const value = this.file.values.get(`tokenizer.ggml.${kind}_token_id`);
    return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0 ? value : null;
  }

  private refuse(name: string, value: GgufValue | undefined, allowed: string): InputError {
    const what = value === undefined ? 'it is missing' : `it is ${String(value).slice(0, 60)}`;
    return new InputError(this.file.name, `metadata ${this.key(name)}`, what, allowed);
  }
}
