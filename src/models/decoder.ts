/**
 * The one decoder: token ids ─▶ hidden states, with options for what architectures differ in. An architecture is a
 * reading of its `config.json` into these options (architectures/). The same function builds the graph that trains, the
 * one that decodes against a key-value cache, and the one that is written as ONNX (with symbolic sizes).
 *
 *   x = embed(ids) (+ position(ids));  per layer: x += attention(norm(x)); x += mlp(norm(x));  norm(x)
 *
 * Gemma norms what joins the stream once more: x += norm(attention(norm(x))).
 */
import type { Graph } from '../engine/graph/graph.ts';
import type { Dim, Value } from '../engine/graph/types.ts';
import {
  activation,
  add,
  attention,
  embedding,
  kvAppend,
  layernorm,
  matmul,
  mul,
  replaceRows,
  rmsnorm,
  rotary,
  scale,
  siluMul,
  softcap,
  split,
  type ActivationName,
} from '../engine/ops/index.ts';
import {
  adapted,
  adaptedHead,
  headWithLora,
  trainedRows,
  trainsWhole,
  withLora,
  type LinearSite,
  type LoraDropout,
  type LoraSettings,
} from './lora.ts';
import type { PackedDType } from '../engine/graph/packing.ts';
import { LLAMA_NAMES, type DecoderNames } from './names.ts';
import { rotaryTables, tablesFor, type RotaryOptions, type RotaryTables } from './rotary.ts';

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
  /** Which layers have the window, where not all of them do. */
  readonly sliding_layers?: readonly boolean[];
  /** Rotary of the layers with a window, where it differs. */
  readonly sliding_rotary?: RotaryOptions;
  /** Llama's where absent. */
  readonly names?: DecoderNames;
  /** RMSNorm where absent. */
  readonly norm?: 'layernorm';
  /** RMSNorm's weights lie as w − 1 (Gemma). */
  readonly norm_offset?: 1;
  /** An RMSNorm over each head of q and of k, before they are turned. */
  readonly head_norm?: boolean;
  /** Multiplies the embeddings. */
  readonly embedding_scale?: number;
  readonly activation: ActivationName;
  /** down(activation(up(x))) instead of down(activation(gate(x)) · up(x)). */
  readonly plain_mlp?: boolean;
  /** Weights of linear layers lie [in, out] (GPT-2's Conv1D). */
  readonly conv1d?: boolean;
  /** Multiplies q·k in layer i; 1/√head_dim where absent. */
  readonly attention_scale?: (layer: number) => number;
  /** Bounds the scores, and the logits, by cap · tanh(x / cap); unbounded where absent. */
  readonly attn_logit_softcapping?: number;
  readonly final_logit_softcapping?: number;
  /** Weights that the device holds packed, by hub name (held.ts); f32 where absent. */
  readonly held?: ReadonlyMap<string, PackedDType>;
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
  /** f32 [batch, tokens, hidden]: after the final norm; longer by the rank of a pair on the head. */
  readonly hidden: Value;
  /** As transformers' `hidden_states`: embeddings, each layer's output, the last one after the final norm. */
  readonly hidden_states: readonly Value[];
  /** The output embedding, f32 [vocab, width of `hidden`]. */
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
  const trainable = trained(choices);
  const weight = (name: string, shape: Dim[]): Value =>
    graph.parameter(name, shape, { trainable: trainable(name), dtype: options.held?.get(name) });
  const lora = loraOf(graph, choices.adapter);

  const linear = (path: string, x: Value, outputs: number, bias: boolean): Value => {
    const shape = [outputs, x.type.shape.at(-1)!];
    const w = weight(`${path}.weight`, options.conv1d ? shape.reverse() : shape);
    const { conv1d = false } = options;
    const y = lora.linear(path, { x, w, y: matmul(x, w, { transB: !conv1d }), conv1d });
    return bias ? add(y, weight(`${path}.bias`, [outputs])) : y;
  };
  const norm = (path: string, x: Value, size = H): Value => {
    const gain = weight(`${path}.weight`, [size]);
    if (options.norm !== 'layernorm') return rmsnorm(x, gain, { eps: options.norm_eps, offset: options.norm_offset });
    return layernorm(x, gain, weight(`${path}.bias`, [H]), { eps: options.norm_eps });
  };
  /** What joins the stream is normed first, where the architecture has a norm for it. */
  const joined = (x: Value, y: Value, path: string, name: string | undefined): Value =>
    add(x, name === undefined ? y : norm(`${path}.${name}`, y));
  const slides = (layer: number): boolean => options.sliding_layers?.[layer] ?? options.sliding_window !== undefined;
  const rotate = rotation(graph, options, options.rotary, 'rotary', inputs);
  const rotateSliding = options.sliding_rotary
    ? rotation(graph, options, options.sliding_rotary, 'rotary.sliding', inputs)
    : rotate;
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
    if (options.head_norm) {
      q = norm(`${path}.${names.query_norm}`, q, D);
      k = norm(`${path}.${names.key_norm}`, k, D);
    }
    const window = slides(layer) ? options.sliding_window : undefined;
    const turn = slides(layer) ? rotateSliding : rotate;
    q = turn(q);
    k = turn(k);
    const { cache } = inputs;
    if (cache) {
      k = kvAppend(cache.key(layer), k, cache.past_length);
      v = kvAppend(cache.value(layer), v, cache.past_length);
      present.push({ key: k, value: v });
    }
    const factor = options.attention_scale?.(layer) ?? 1 / Math.sqrt(D);
    const [out] = attention(
      q,
      k,
      v,
      inputs.query_segments,
      inputs.key_segments,
      {
        heads,
        kv_heads: kvHeads,
        head_dim: D,
        scale: factor,
        causal: true,
        window,
        softcap: options.attn_logit_softcapping,
      },
      cache?.past_length,
    );
    return linear(`${path}.${names.attention_output}`, out!, H, options.output_bias);
  };
  const mlp = (path: string, x: Value): Value => {
    const inner = options.intermediate_size;
    const wide = (name: string, parts = 1): Value => linear(`${path}.${name}`, x, parts * inner, options.mlp_bias);
    const down = (y: Value): Value => linear(`${path}.${names.down}`, y, H, options.mlp_bias);
    if (options.plain_mlp) return down(activation(wide(names.up), options.activation));
    const [gate, up] = names.gate ? [wide(names.gate), wide(names.up)] : split(wide(names.up, 2), [inner, inner]);
    // fused where nearly every model has it
    if (options.activation === 'silu') return down(siluMul(gate!, up!));
    return down(mul(activation(gate!, options.activation), up!));
  };

  const table = (path: string): Value => {
    const frozen = weight(`${path}.weight`, [options.vocab_size, H]);
    const { adapter } = choices;
    const rows = adapter && trainedRows(adapter.settings, path, path === names.embedding);
    if (!rows) return frozen;
    const trained = graph.parameter(rows.name, [rows.count, H], { trainable: adapter.trainable });
    return replaceRows(frozen, trained, rows.first);
  };
  const embeddings = table(names.embedding);
  let x = embedding(embeddings, inputs.input_ids);
  if (options.embedding_scale !== undefined) x = scale(x, options.embedding_scale);
  if (!options.rotary) {
    const positions = weight(`${names.positions!}.weight`, [options.max_position_embeddings, H]);
    x = add(x, embedding(positions, inputs.position_ids));
  }
  const states = [x];
  for (let i = 0; i < options.num_hidden_layers; i++) {
    const path = `${names.layers}.${i}`;
    const layer = (x: Value): Value => {
      const y = joined(
        x,
        attend(path, i, norm(`${path}.${names.attention_norm}`, x)),
        path,
        names.after_attention_norm,
      );
      return joined(y, mlp(path, norm(`${path}.${names.mlp_norm}`, y)), path, names.after_mlp_norm);
    };
    x = graph.block(() => layer(states[i]!));
    states.push(x);
  }
  states[states.length - 1] = norm(names.final_norm, x);
  const head = { hidden: states.at(-1)!, weight: options.tie_word_embeddings ? embeddings : table('lm_head') };
  const { hidden, weight: long } = lora.head('lm_head', head);
  return { hidden, hidden_states: states, head: long, present };
}

/** Whole logits, f32 [..., vocab]: what decodes and what is compared; training never has them (`linearLoss`). */
export function logitsOf({ final_logit_softcapping: cap }: DecoderOptions, hidden: Value, head: Value): Value {
  const logits = matmul(hidden, head, { transB: true });
  return cap === undefined ? logits : softcap(logits, cap);
}

/** The weight that gives the logits: the embedding where they are tied. */
export function headName({ tie_word_embeddings, names = LLAMA_NAMES }: DecoderOptions): string {
  return tie_word_embeddings ? `${names.embedding}.weight` : 'lm_head.weight';
}

/** Which weights of the base are trained: by themselves, or whole beside an adapter's pairs. */
export function trained({ adapter, trainable }: DecoderChoices): (name: string) => boolean {
  return (name) => trainable?.(name) === true || (adapter?.trainable === true && trainsWhole(adapter.settings, name));
}

/** Turns heads by their positions; nothing where positions are learned. */
function rotation(
  graph: Graph,
  { head_dim, max_position_embeddings }: DecoderOptions,
  settings: RotaryOptions | undefined,
  name: string,
  inputs: DecoderInputs,
): (x: Value) => Value {
  if (!settings) return (x) => x;
  // positions never pass the number of keys; only an exported graph does not know that number
  const keys = inputs.key_segments.type.shape[1]!;
  if (inputs.cache && typeof keys === 'number' && growsWithin(settings, keys)) {
    const [cos, sin] = ['cos', 'sin'].map((part) => graph.input(`${name}.${part}`, [keys, settings.dims / 2]));
    return (x) => rotary(x, cos!, sin!, inputs.position_ids, { head_dim });
  }
  const tables = typeof keys === 'number' ? tablesOf(settings, keys) : tablesOfAll(settings, max_position_embeddings);
  const shape = [tables.cos.length / (settings.dims / 2), settings.dims / 2];
  const cosines = graph.constant(`${name}.cos`, shape, tables.cos);
  const sines = graph.constant(`${name}.sin`, shape, tables.sin);
  const { long_after, stretch } = tables;
  return (x) => rotary(x, cosines, sines, inputs.position_ids, { head_dim, long_after, stretch });
}

/** Whether sequences of fewer than `keys` tokens may be turned by other numbers than those of as many. */
const growsWithin = (settings: RotaryOptions, keys: number): boolean =>
  tablesFor(settings, 1) !== tablesFor(settings, keys);

/**
 * Inputs of a graph with a cache of `keys`, where tables depend on how long the sequences are by now. Keys that are in the
 * cache stay as they were turned.
 * @param tokens of the longest sequence of the batch
 */
export function rotaryInputs(
  { rotary, sliding_rotary }: DecoderOptions,
  keys: number,
  tokens: number,
): Record<string, Float32Array> {
  const inputs: Record<string, Float32Array> = {};
  for (const [name, settings] of Object.entries({ rotary, 'rotary.sliding': sliding_rotary })) {
    if (!settings || !growsWithin(settings, keys)) continue;
    const { cos, sin } = rotaryTables(settings, tokens, tablesFor(settings, tokens));
    const padded = (table: Float32Array): Float32Array => {
      const whole = new Float32Array((keys * settings.dims) / 2);
      whole.set(table);
      return whole;
    };
    inputs[`${name}.cos`] = padded(cos);
    inputs[`${name}.sin`] = padded(sin);
  }
  return inputs;
}

/** What an adapter makes of a linear layer's product, and of the head. */
export interface LoraSites {
  linear(path: string, site: LinearSite): Value;
  head(path: string, head: LoraHead): LoraHead;
}

interface LoraHead {
  readonly hidden: Value;
  readonly weight: Value;
}

export function loraOf(graph: Graph, adapter: DecoderAdapter | undefined): LoraSites {
  if (!adapter) return { linear: (_path, { y }) => y, head: (_path, head) => head };
  const { settings, trainable, dropout_seed } = adapter;
  let sites = 0;
  const drop: LoraDropout | undefined = dropout_seed && {
    p: settings.lora_dropout,
    seed: dropout_seed,
    site: () => sites++,
  };
  const { use_dora: dora = false, lora_bias: bias = false } = settings;
  return {
    linear(path, site) {
      const target = adapted(settings, path);
      return target ? withLora(graph, target, site, { trainable, dora, bias, drop }) : site.y;
    },
    head(path, head) {
      const target = adaptedHead(settings, path);
      return target ? headWithLora(graph, target, head, { trainable, dora, drop }) : head;
    },
  };
}

interface Tables extends RotaryTables {
  /** Rows of the first of two tables, where there are two. */
  readonly long_after?: number;
  /** How longer sequences than the table's are turned. */
  readonly stretch?: readonly [theta: number, factor: number];
}

/** One table for all graphs of a length, so that the device holds it once. */
const tables = new WeakMap<RotaryOptions, Map<number, Tables>>();

function tablesOf(options: RotaryOptions, positions: number): Tables {
  const byLength = tables.get(options) ?? new Map<number, Tables>();
  tables.set(options, byLength);
  const table = byLength.get(positions) ?? rotaryTables(options, positions);
  byLength.set(positions, table);
  return table;
}

/** For sequences of any length: longrope turns short ones by other numbers than long ones, dynamic scaling each by its own. */
function tablesOfAll(options: RotaryOptions, positions: number): Tables {
  const { scaling } = options;
  if (scaling.kind === 'dynamic') {
    const { factor, trained } = scaling;
    return { ...rotaryTables(options, trained), stretch: [options.theta, factor] };
  }
  const original = scaling.kind === 'longrope' ? scaling.original_max_position_embeddings : positions;
  if (positions <= original) return rotaryTables(options, positions);
  const [short, long] = [rotaryTables(options, original), rotaryTables(options, positions)];
  const joined = (a: Float32Array, b: Float32Array): Float32Array => {
    const both = new Float32Array(a.length + b.length);
    both.set(a);
    both.set(b, a.length);
    return both;
  };
  return { cos: joined(short.cos, long.cos), sin: joined(short.sin, long.sin), long_after: original };
}
