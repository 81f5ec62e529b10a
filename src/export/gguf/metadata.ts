/**
 * What a GGUF says of a model's shape: config.json under ggml's keys (ggml/docs/gguf.md; convert_hf_to_gguf.py), with the
 * rotary factors that llama.cpp reads as a tensor. An architecture that is not listed, or a setting that llama.cpp would
 * compute differently, is refused by name.
 */
import { InputError } from '../../formats/input-error.ts';
import type { ActivationName } from '../../engine/ops/index.ts';
import type { GgufEntry } from '../../formats/gguf-write.ts';
import type { RawConfig } from '../../models/config.ts';
import type { DecoderOptions } from '../../models/decoder.ts';
import type { RotaryOptions } from '../../models/rotary.ts';

/** llama.cpp's architecture by `model_type`, and the one activation that it computes there. */
const ARCHITECTURES: Readonly<Record<string, { readonly ggml: string; readonly activation: ActivationName }>> = {
  llama: { ggml: 'llama', activation: 'silu' },
  mistral: { ggml: 'llama', activation: 'silu' },
  qwen2: { ggml: 'qwen2', activation: 'silu' },
  qwen3: { ggml: 'qwen3', activation: 'silu' },
  phi3: { ggml: 'phi3', activation: 'silu' },
  gemma2: { ggml: 'gemma2', activation: 'gelu_pytorch_tanh' },
  gemma3_text: { ggml: 'gemma3', activation: 'gelu_pytorch_tanh' },
  gpt2: { ggml: 'gpt2', activation: 'gelu_pytorch_tanh' },
};

export interface GgufShape {
  readonly architecture: string;
  readonly entries: readonly GgufEntry[];
  /** What each rotary frequency is divided by, under ggml's names; f32 [rotated dimensions / 2] each. */
  readonly ropeFactors: ReadonlyMap<string, Float32Array<ArrayBuffer>>;
}

/** @param file of errors: the model's name */
export function ggufShape(config: RawConfig, options: DecoderOptions, file: string): GgufShape {
  const type = String(config.model_type);
  const found = Object.hasOwn(ARCHITECTURES, type) ? ARCHITECTURES[type]! : undefined;
  if (found === undefined) {
    throw new InputError(
      file,
      'config.json: model_type',
      `${type} is not written as GGUF`,
      `${Object.keys(ARCHITECTURES).join(', ')}, or no GGUF`,
    );
  }
  const architecture = found.ggml;
  const refuse = (field: string, allowed: string): InputError =>
    new InputError(file, `config.json: ${field}`, `it has no form in a ${architecture} GGUF`, `${allowed}, or no GGUF`);
  if (options.activation !== found.activation) throw refuse(ACTIVATION_FIELDS[type] ?? 'hidden_act', found.activation);
  const { rotary } = options;
  const entries: GgufEntry[] = [];
  const count = (key: string, value: number): void =>
    void entries.push({ key: `${architecture}.${key}`, type: 'u32', value });
  const float = (key: string, value: number): void =>
    void entries.push({ key: `${architecture}.${key}`, type: 'f32', value });
  count('context_length', options.max_position_embeddings);
  count('embedding_length', options.hidden_size);
  count('block_count', options.num_hidden_layers);
  count('feed_forward_length', options.intermediate_size);
  count('attention.head_count', options.num_attention_heads);
  if (!rotary) {
    refuseOtherGpt2(options, refuse);
    float('attention.layer_norm_epsilon', options.norm_eps);
    count('vocab_size', options.vocab_size);
    return { architecture, entries, ropeFactors: new Map() };
  }
  if (architecture === 'gemma2') refuseOtherGemma2(options, refuse);
  if (architecture === 'gemma3') refuseOtherGemma3(options, refuse);
  count('attention.head_count_kv', options.num_key_value_heads);
  count('attention.key_length', options.head_dim);
  count('attention.value_length', options.head_dim);
  float('attention.layer_norm_rms_epsilon', options.norm_eps);
  // phi3 names it always, as the converter does; llama.cpp reads it there and shows every key all the same
  const window = options.sliding_window ?? (architecture === 'phi3' ? 0 : undefined);
  if (window !== undefined) count('attention.sliding_window', window);
  const { attn_logit_softcapping: scores, final_logit_softcapping: logits } = options;
  if (scores !== undefined) float('attn_logit_softcapping', scores);
  if (logits !== undefined) float('final_logit_softcapping', logits);
  count('rope.dimension_count', rotary.dims);
  float('rope.freq_base', rotary.theta);
  count('vocab_size', options.vocab_size);

  const { scaling } = rotary;
  switch (scaling.kind) {
    case 'default':
      return { architecture, entries, ropeFactors: new Map() };
    case 'linear':
      entries.push({ key: `${architecture}.rope.scaling.type`, type: 'string', value: 'linear' });
      float('rope.scaling.factor', scaling.factor);
      return { architecture, entries, ropeFactors: new Map() };
    case 'llama3':
      if (architecture !== 'llama') break;
      if (scaling.low_freq_factor !== 1 || scaling.high_freq_factor !== 4) break; // a GGUF has no place for them
      count('rope.scaling.original_context_length', scaling.original_max_position_embeddings);
      return {
        architecture,
        entries,
        ropeFactors: new Map([['rope_freqs.weight', llama3Factors(rotary.theta, rotary.dims, scaling)]]),
      };
    case 'longrope':
      if (architecture !== 'phi3') break;
      count('rope.scaling.original_context_length', scaling.original_max_position_embeddings);
      float('rope.scaling.attn_factor', scaling.attention_factor);
      return {
        architecture,
        entries,
        ropeFactors: new Map([
          ['rope_factors_long.weight', Float32Array.from(scaling.long_factor)],
          ['rope_factors_short.weight', Float32Array.from(scaling.short_factor)],
        ]),
      };
  }
  throw new InputError(
    file,
    'config.json: rope_scaling',
    `${JSON.stringify(scaling)} has no form in a ${architecture} GGUF`,
    'default, linear, that of the Llama 3 releases, or longrope for phi3',
  );
}

/** What a config calls its activation, where it is not `hidden_act`. */
const ACTIVATION_FIELDS: Readonly<Record<string, string>> = {
  gpt2: 'activation_function',
  gemma2: 'hidden_activation',
  gemma3_text: 'hidden_activation',
};

type Refuse = (field: string, allowed: string) => InputError;

/** llama.cpp's gpt2 has scores over √head size; a GGUF has no word for others. */
function refuseOtherGpt2({ attention_scale, head_dim }: DecoderOptions, refuse: Refuse): void {
  if (attention_scale?.(0) !== 1 / Math.sqrt(head_dim)) throw refuse('scale_attn_weights', 'true');
  if (attention_scale(1) !== attention_scale(0)) throw refuse('scale_attn_by_inverse_layer_idx', 'false');
}

/**
 * llama.cpp's gemma2 knows the releases (src/models/gemma2.cpp): a window in every second layer, the first one too; scores
 * over √head size, but for the 27B of 46 layers; both caps, 50 and 30 where the file names none; no biases.
 */
function refuseOtherGemma2(options: DecoderOptions, refuse: Refuse): void {
  refuseOtherGemmaScalar(options, 46, refuse);
  if (options.sliding_layers?.some((slides, layer) => slides !== (layer % 2 === 0))) {
    throw refuse('layer_types', 'sliding_attention in every second layer, the first one too');
  }
  for (const cap of ['attn_logit_softcapping', 'final_logit_softcapping'] as const) {
    if (options[cap] === undefined) throw refuse(cap, 'a number');
  }
}

/**
 * llama.cpp's gemma3 knows the releases (src/models/gemma3.cpp): a window in five layers of six, turned by 10000 without
 * scaling; scores over √head size, but for the 27B of 62 layers; no biases.
 */
function refuseOtherGemma3(options: DecoderOptions, refuse: Refuse): void {
  const { sliding_rotary } = options;
  refuseOtherGemmaScalar(options, 62, refuse);
  if (options.sliding_layers?.some((slides, layer) => slides === ((layer + 1) % 6 === 0))) {
    throw refuse('layer_types', 'full_attention in every sixth layer');
  }
  if (sliding_rotary?.theta !== 1e4 || sliding_rotary.scaling.kind !== 'default') {
    throw refuse('rope_local_base_freq', '10000, unscaled');
  }
}

function refuseOtherGemmaScalar(options: DecoderOptions, layersOf27B: number, refuse: Refuse): void {
  const { hidden_size, num_attention_heads, num_hidden_layers, head_dim } = options;
  const scalar = num_hidden_layers === layersOf27B ? hidden_size / num_attention_heads : head_dim;
  if (options.attention_scale?.(0) !== 1 / Math.sqrt(scalar)) throw refuse('query_pre_attn_scalar', String(scalar));
  if (options.qkv_bias) throw refuse('attention_bias', 'false');
}

function llama3Factors(
  theta: number,
  dims: number,
  scaling: Extract<RotaryOptions['scaling'], { kind: 'llama3' }>,
): Float32Array<ArrayBuffer> {
  const { factor, low_freq_factor: low, high_freq_factor: high, original_max_position_embeddings: original } = scaling;
  return Float32Array.from({ length: dims / 2 }, (_, i) => {
    const turns = original / (2 * Math.PI * theta ** ((2 * i) / dims)); // of the original context by this frequency
    if (turns < low) return factor;
    if (turns > high) return 1;
    const smooth = (turns - low) / (high - low);
    return 1 / ((1 - smooth) / factor + smooth);
  });
}
