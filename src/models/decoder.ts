/**
 * The one decoder: token ids ─▶ hidden states, with options for what architectures differ in. An architecture is a
 * reading of its `config.json` into these options (architectures/). The same function builds the graph that trains, the
 * one that decodes against a key-value cache, and the one that is written as ONNX (with symbolic sizes).
 *
 *   x = embed(ids) (+ position(ids));  per layer: x += attention(norm(x)); x += mlp(norm(x));  norm(x)
 */
import type { Graph } from '../engine/graph/graph.ts';
import type { Dim, Value } from '../engine/graph/types.ts';
import {
  add,
  attention,
  embedding,
  gelu,
  kvAppend,
  layernorm,
  matmul,
  rmsnorm,
  rotary,
  siluMul,
  split,
  type GeluForm,
} from '../engine/ops/index.ts';
import { adapted, withLora, type LoraDropout, type LoraSettings } from './lora.ts';
import { LLAMA_NAMES, type DecoderNames } from './names.ts';
import { rotaryTables, type RotaryOptions } from './rotary.ts';

export interface DecoderOptions {
  readonly vocab_size: number;
  readonly hidden_size: number;
  readonly num_hidden_layers: number;
  readonly num_attention_heads: number;
  readonly num_key_value_heads: number;
  readonly head_dim: number;
  readonly intermediate_size: number;
  readonly max_position_embeddings: number;
  readonly norm_eps: number;
  /** Without: positions are learned, one embedding for each up to `max_position_embeddings`. */
  readonly rotary?: RotaryOptions;
  readonly tie_word_embeddings: boolean;
  /** Biases of q, k, v and of the output projection. */
  readonly qkv_bias: boolean;
  readonly output_bias: boolean;
  readonly mlp_bias: boolean;
  /** Keys further back than this many tokens are not seen; undefined: all are. */
  readonly sliding_window?: number;
  /** Llama's where absent. */
  readonly names?: DecoderNames;
  /** RMSNorm where absent. */
  readonly norm?: 'layernorm';
  /** down(gelu(up(x))) instead of down(silu(gate(x)) · up(x)). */
  readonly plain_mlp?: GeluForm;
  /** Weights of linear layers lie [in, out] (GPT-2's Conv1D). */
  readonly conv1d?: boolean;
  /** Multiplies q·k in layer i; 1/√head_dim where absent. */
  readonly attention_scale?: (layer: number) => number;
}

export interface DecoderInputs {
  /** i32 [batch, tokens] */
  readonly input_ids: Value;
  /** i32 [batch, tokens] */
  readonly position_ids: Value;
  /** i32 [batch, tokens]: 0 is padding; tokens see keys of their own segment only. */
  readonly query_segments: Value;
  /** i32 [batch, keys]; the same value as `query_segments` without a cache. */
  readonly key_segments: Value;
  /** Keys and values of earlier tokens, f32 [batch, capacity, key-value heads · head size] a layer. */
  readonly cache?: {
    readonly past_length: Value;
    readonly key: (layer: number) => Value;
    readonly value: (layer: number) => Value;
  };
}

export interface DecoderAdapter {
  readonly settings: LoraSettings;
  readonly trainable: boolean;
  /** i32[2] seed and step: adapters drop inputs only where this is given (training). */
  readonly dropout_seed?: Value;
}

export interface DecoderChoices {
  readonly adapter?: DecoderAdapter;
  /** Whether the base weight of this name is trained. */
  readonly trainable?: (name: string) => boolean;
}

export interface DecoderOutputs {
  /** f32 [batch, tokens, hidden]: after the final norm. */
  readonly hidden: Value;
  /** As transformers' `hidden_states`: embeddings, each layer's output, the last one after the final norm. */
  readonly hidden_states: readonly Value[];
  /** The output embedding, f32 [vocab, hidden]. */
  readonly head: Value;
  /** Caches with the new tokens in them. */
  readonly present: readonly { readonly key: Value; readonly value: Value }[];
}

export function decoder(
  graph: Graph,
  options: DecoderOptions,
  inputs: DecoderInputs,
  choices: DecoderChoices = {},
): DecoderOutputs {
  const { hidden_size: H, head_dim: D, num_attention_heads: heads, num_key_value_heads: kvHeads } = options;
  const { names = LLAMA_NAMES } = options;
  const trainable = choices.trainable ?? (() => false);
  const weight = (name: string, shape: Dim[]): Value => graph.parameter(name, shape, { trainable: trainable(name) });
  const lora = loraOf(choices.adapter);

  const linear = (path: string, x: Value, outputs: number, bias: boolean): Value => {
    const shape = [outputs, x.type.shape.at(-1)!];
    const w = weight(`${path}.weight`, options.conv1d ? shape.reverse() : shape);
    let y = matmul(x, w, { transB: !options.conv1d });
    if (bias) y = add(y, weight(`${path}.bias`, [outputs]));
    return lora(graph, path, x, y);
  };
  const norm = (path: string, x: Value): Value => {
    const gain = weight(`${path}.weight`, [H]);
    if (options.norm !== 'layernorm') return rmsnorm(x, gain, { eps: options.norm_eps });
    return layernorm(x, gain, weight(`${path}.bias`, [H]), { eps: options.norm_eps });
  };
  const rotate = rotation(graph, options, inputs);
  const present: { key: Value; value: Value }[] = [];
  const project = (path: string, x: Value): [Value, Value, Value] => {
    const sizes = [heads * D, kvHeads * D, kvHeads * D];
    const parts =
      typeof names.qkv === 'string'
        ? split(linear(`${path}.${names.qkv}`, x, sizes[0]! + 2 * sizes[1]!, options.qkv_bias), sizes)
        : names.qkv.map((name, i) => linear(`${path}.${name}`, x, sizes[i]!, options.qkv_bias));
    return parts as [Value, Value, Value];
  };
  const attend = (path: string, layer: number, x: Value): Value => {
    let [q, k, v] = project(path, x);
    q = rotate(q);
    k = rotate(k);
    const { cache } = inputs;
    if (cache) {
      k = kvAppend(cache.key(layer), k, cache.past_length);
      v = kvAppend(cache.value(layer), v, cache.past_length);
      present.push({ key: k, value: v });
    }
    const scale = options.attention_scale?.(layer) ?? 1 / Math.sqrt(D);
    const [out] = attention(
      q,
      k,
      v,
      inputs.query_segments,
      inputs.key_segments,
      { heads, kv_heads: kvHeads, head_dim: D, scale, causal: true, window: options.sliding_window },
      cache?.past_length,
    );
    return linear(`${path}.${names.attention_output}`, out!, H, options.output_bias);
  };
  const mlp = (path: string, x: Value): Value => {
    const wide = (name: string): Value => linear(`${path}.${name}`, x, options.intermediate_size, options.mlp_bias);
    const inner = options.plain_mlp
      ? gelu(wide(names.up), { approximate: options.plain_mlp })
      : siluMul(wide(names.gate!), wide(names.up));
    return linear(`${path}.${names.down}`, inner, H, options.mlp_bias);
  };

  const embeddings = weight(`${names.embedding}.weight`, [options.vocab_size, H]);
  let x = embedding(embeddings, inputs.input_ids);
  if (!options.rotary) {
    const positions = weight(`${names.positions!}.weight`, [options.max_position_embeddings, H]);
    x = add(x, embedding(positions, inputs.position_ids));
  }
  const states = [x];
  for (let i = 0; i < options.num_hidden_layers; i++) {
    const path = `${names.layers}.${i}`;
    x = add(x, attend(path, i, norm(`${path}.${names.attention_norm}`, x)));
    x = add(x, mlp(path, norm(`${path}.${names.mlp_norm}`, x)));
    states.push(x);
  }
  const hidden = norm(names.final_norm, x);
  states[states.length - 1] = hidden;
  const head = weight(headName(options), [options.vocab_size, H]);
  return { hidden, hidden_states: states, head, present };
}

/** The weight that gives the logits: the embedding where they are tied. */
export function headName({ tie_word_embeddings, names = LLAMA_NAMES }: DecoderOptions): string {
  return tie_word_embeddings ? `${names.embedding}.weight` : 'lm_head.weight';
}

/** Turns heads by their positions; nothing where positions are learned. */
function rotation(graph: Graph, options: DecoderOptions, inputs: DecoderInputs): (x: Value) => Value {
  if (!options.rotary) return (x) => x;
  // positions never pass the number of keys; only an exported graph does not know that number
  const keys = inputs.key_segments.type.shape[1]!;
  const positions = typeof keys === 'number' ? keys : options.max_position_embeddings;
  const { cos, sin } = tablesOf(options.rotary, positions);
  const half = options.rotary.dims / 2;
  const cosines = graph.constant('rotary.cos', [positions, half], cos);
  const sines = graph.constant('rotary.sin', [positions, half], sin);
  return (x) => rotary(x, cosines, sines, inputs.position_ids, { head_dim: options.head_dim });
}

export function loraOf(adapter: DecoderAdapter | undefined): (graph: Graph, path: string, x: Value, y: Value) => Value {
  if (!adapter) return (_graph, _path, _x, y) => y;
  let sites = 0;
  const drop: LoraDropout | undefined = adapter.dropout_seed && {
    p: adapter.settings.lora_dropout,
    seed: adapter.dropout_seed,
    site: () => sites++,
  };
  return (graph, path, x, y) => {
    const target = adapted(adapter.settings, path);
    return target ? withLora(graph, target, x, y, adapter.trainable, drop) : y;
  };
}

/** One table for all graphs of a length, so that the device holds it once. */
const tables = new WeakMap<RotaryOptions, Map<number, { cos: Float32Array; sin: Float32Array }>>();

function tablesOf(options: RotaryOptions, positions: number): { cos: Float32Array; sin: Float32Array } {
  const byLength = tables.get(options) ?? new Map<number, { cos: Float32Array; sin: Float32Array }>();
  tables.set(options, byLength);
  const table = byLength.get(positions) ?? rotaryTables(options, positions);
  byLength.set(positions, table);
  return table;
}
