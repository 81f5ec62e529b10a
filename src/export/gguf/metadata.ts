/**
 * What a GGUF says of a model's shape: config.json under ggml's keys (ggml/docs/gguf.md; convert_hf_to_gguf.py), with the
 * rotary factors that llama.cpp reads as a tensor. An architecture that is not listed, or a setting that llama.cpp would
 * compute differently, is refused by name.
 */
import { InputError } from '../../formats/input-error.ts';
import type { GgufEntry } from '../../formats/gguf-write.ts';
import type { RawConfig } from '../../models/config.ts';
import type { DecoderOptions } from '../../models/decoder.ts';
import type { RotaryOptions } from '../../models/rotary.ts';

/** llama.cpp's architecture by `model_type`. */
const ARCHITECTURES: Readonly<Record<string, string>> = {
  llama: 'llama',
  mistral: 'llama',
  qwen2: 'qwen2',
  qwen3: 'qwen3',
  gpt2: 'gpt2',
};

export interface GgufShape {
  readonly architecture: string;
  readonly entries: readonly GgufEntry[];
  /** What each rotary frequency is divided by (Llama 3); f32 [rotated dimensions / 2]. */
  readonly ropeFactors?: Float32Array<ArrayBuffer>;
}

/** @param file of errors: the model's name */
export function ggufShape(config: RawConfig, options: DecoderOptions, file: string): GgufShape {
  const type = String(config.model_type);
  const architecture = Object.hasOwn(ARCHITECTURES, type) ? ARCHITECTURES[type]! : undefined;
  if (architecture === undefined) {
    throw new InputError(
      file,
      'config.json: model_type',
      `${type} is not written as GGUF`,
      `${Object.keys(ARCHITECTURES).join(', ')}, or no GGUF`,
    );
  }
  const { rotary } = options;
  if (rotary && rotary.dims !== options.head_dim) {
    throw new InputError(file, 'config.json: partial_rotary_factor', 'llama.cpp turns whole heads', '1, or no GGUF');
  }
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
    refuseOtherGpt2(options, file);
    float('attention.layer_norm_epsilon', options.norm_eps);
    count('vocab_size', options.vocab_size);
    return { architecture, entries };
  }
  count('attention.head_count_kv', options.num_key_value_heads);
  count('attention.key_length', options.head_dim);
  count('attention.value_length', options.head_dim);
  float('attention.layer_norm_rms_epsilon', options.norm_eps);
  if (options.sliding_window !== undefined) count('attention.sliding_window', options.sliding_window);
  count('rope.dimension_count', rotary.dims);
  float('rope.freq_base', rotary.theta);
  count('vocab_size', options.vocab_size);

  const { scaling } = rotary;
  switch (scaling.kind) {
    case 'default':
      return { architecture, entries };
    case 'linear':
      entries.push({ key: `${architecture}.rope.scaling.type`, type: 'string', value: 'linear' });
      float('rope.scaling.factor', scaling.factor);
      return { architecture, entries };
    case 'llama3':
      if (architecture !== 'llama') break;
      if (scaling.low_freq_factor !== 1 || scaling.high_freq_factor !== 4) break; // a GGUF has no place for them
      count('rope.scaling.original_context_length', scaling.original_max_position_embeddings);
      return { architecture, entries, ropeFactors: llama3Factors(rotary.theta, rotary.dims, scaling) };
  }
  throw new InputError(
    file,
    'config.json: rope_scaling',
    `${JSON.stringify(scaling)} has no form in a ${architecture} GGUF`,
    'default, linear or that of the Llama 3 releases',
  );
}

/** llama.cpp's gpt2 has the tanh form of GELU and scores over √head size; a GGUF has no word for others. */
function refuseOtherGpt2({ plain_mlp, attention_scale, head_dim }: DecoderOptions, file: string): void {
  const refuse = (field: string, allowed: string): InputError =>
    new InputError(file, `config.json: ${field}`, 'it has no form in a gpt2 GGUF', `${allowed}, or no GGUF`);
  if (plain_mlp !== 'tanh') throw refuse('activation_function', 'gelu_new');
  if (attention_scale?.(0) !== 1 / Math.sqrt(head_dim)) throw refuse('scale_attn_weights', 'true');
  if (attention_scale(1) !== attention_scale(0)) throw refuse('scale_attn_by_inverse_layer_idx', 'false');
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
