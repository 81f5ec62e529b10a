/**
 * A base and its adapters as one set of weights, computed tensor by tensor when read:
 *
 *   W' = W + scaling · B·A                                (LoRA)
 *   W' = m · (W + scaling · B·A) / ‖W + scaling · B·A‖    (DoRA, Liu et al. 2024; the norm of each output's row)
 *   b' = b + scaling · the bias of B                      (LoRA with lora_bias)
 *
 * How a weight lies ([in, out] for GPT-2's Conv1D) is the base's to say, as in PEFT; an adapter's `fan_in_fan_out` is not asked.
 * Sums run in float64 and are rounded once. Weights that the adapter saved whole (modules_to_save, biases) replace the
 * base's, and so do rows of single tokens. What cannot be merged without changing another tensor is refused by name.
 */
import type { Adapter } from '../formats/peft.ts';
import { scalingOf } from '../formats/peft-modules.ts';
import { InputError } from '../formats/input-error.ts';
import type { TensorFile, TensorInfo } from '../formats/tensor-file.ts';

export interface NamedAdapter {
  /** As the person named it; errors repeat it. */
  readonly name: string;
  readonly adapter: Adapter;
}

/** Weights as f32 by hub name: all that an export needs of a model. */
export type WeightSource = Pick<TensorFile, 'name' | 'readF32'> & {
  readonly tensors: ReadonlyMap<string, Pick<TensorInfo, 'shape'>>;
};

type Change = (base: Float32Array<ArrayBuffer>, shape: readonly number[]) => Float32Array<ArrayBuffer>;

export interface MergeOptions {
  readonly tie_word_embeddings: boolean;
  /** Weights of linear layers other than the head lie [in, out]. */
  readonly conv1d?: boolean;
}

/** The adapters are merged in their order. */
export function mergeAdapters(
  base: WeightSource,
  adapters: readonly NamedAdapter[],
  options: MergeOptions,
): WeightSource {
  const changes = new Map<string, Change[]>();
  for (const named of adapters) {
    for (const [target, change] of changesOf(base, named, options)) {
      changes.set(target, [...(changes.get(target) ?? []), change]);
    }
  }
  return {
    name: base.name,
    tensors: base.tensors,
    async readF32(name) {
      const data = await base.readF32(name);
      const shape = base.tensors.get(name)!.shape;
      return (changes.get(name) ?? []).reduce((weight, change) => change(weight, shape), data);
    },
  };
}

function changesOf(
  base: WeightSource,
  { name: file, adapter }: NamedAdapter,
  { tie_word_embeddings: tied, conv1d = false }: MergeOptions,
): Map<string, Change> {
  const { config, tensors } = adapter;
  const changes = new Map<string, Change>();
  // of B, which join what the adapter may have saved of the base's own
  const biases = new Map<string, Change>();
  for (const [name, { shape, data }] of tensors) {
    if (config.lora_bias && name.endsWith('.lora_B.bias')) continue;
    const refuse = (what: string, allowed: string): InputError => new InputError(file, `tensor ${name}`, what, allowed);
    const [, table] = /^(.*)\.token_adapter\.trainable_tokens_delta$/.exec(name) ?? [];
    if (table !== undefined) {
      const { trainable_token_indices: indices } = config;
      const ids: unknown = Array.isArray(indices)
        ? indices
        : Object.entries(indices ?? {}).find(([end]) => table === end || table.endsWith(`.${end}`))?.[1];
      const [first, whole] = [(ids as readonly number[] | undefined)?.[0], base.tensors.get(`${table}.weight`)];
      const fits = whole?.shape[1] === shape[1] && first !== undefined && first + shape[0]! <= (whole?.shape[0] ?? 0);
      if (!fits) throw refuse(`its rows do not lie in ${table}.weight`, 'an adapter made for this base');
      changes.set(`${table}.weight`, (weight) => {
        const replaced = weight.slice();
        replaced.set(data, first * shape[1]!);
        return replaced;
      });
      continue;
    }
    const [, path, part] = /^(.*)\.(lora_[A-Za-z_]+)(?:\.weight)?$/.exec(name) ?? [];
    if (path === undefined) {
      const whole = base.tensors.get(name);
      if (tied && /(^|\.)lm_head\./.test(name)) {
        throw refuse(
          'the head shares its weight with the embedding, which it would change too',
          'an adapter that leaves the head alone',
        );
      }
      if (whole === undefined || String(whole.shape) !== String(shape)) {
        const has = whole === undefined ? 'no such tensor' : `[${whole.shape}]`;
        throw refuse(`it is [${shape}] and the base has ${has}`, 'an adapter made for this base');
      }
      changes.set(name, () => data.slice());
      continue;
    }
    if (part!.startsWith('lora_embedding')) {
      const reason = tied
        ? 'the embedding is the head too (tied), which it would change'
        : 'adapters on embeddings are not served';
      throw refuse(reason, 'adapters on linear layers');
    }
    if (part !== 'lora_A') continue;

    const target = `${path}.weight`;
    const weight = base.tensors.get(target);
    if (weight === undefined) {
      const isHead = tied && path.endsWith('lm_head');
      throw isHead
        ? refuse(
            'the head shares its weight with the embedding, which it would change too',
            'an adapter that leaves the head alone',
          )
        : refuse(`the base has no ${target}`, 'an adapter made for this base');
    }
    if (tied && /(^|\.)(embed_tokens|wte)$/.test(path)) {
      throw refuse('the embedding is the head too (tied), which it would change', 'adapters on linear layers');
    }
    const b = tensors.get(`${path}.lora_B.weight`)!;
    const [outputs, inputs] = [b.shape[0]!, shape[1]!];
    const byInput = conv1d && !path.endsWith('lm_head');
    const expected = byInput ? [inputs, outputs] : [outputs, inputs];
    if (String(weight.shape) !== String(expected)) {
      throw refuse(
        `it fits a weight of [${expected}], and ${target} is [${weight.shape}]`,
        'an adapter made for this base',
      );
    }
    const magnitude = tensors.get(`${path}.lora_magnitude_vector.weight`)?.data;
    if (config.use_dora && magnitude === undefined)
      throw refuse('its lora_magnitude_vector is missing', 'DoRA with its magnitudes');
    const scaling = scalingOf(config, path, file);
    const bias = config.lora_bias ? tensors.get(`${path}.lora_B.bias`)?.data : undefined;
    if (bias !== undefined) {
      const own = base.tensors.get(`${path}.bias`);
      if (String(own?.shape) !== String([outputs])) {
        throw refuse(`its lora_B has a bias, and the base has no ${path}.bias`, 'lora_bias on layers with a bias');
      }
      biases.set(`${path}.bias`, (own) => own.map((value, o) => value + scaling * bias[o]!));
    }
    changes.set(
      target,
      mergeLowRank({
        a: data,
        b: b.data,
        rank: shape[0]!,
        outputs,
        inputs,
        scaling,
        byInput,
        magnitude: config.use_dora ? magnitude : undefined,
      }),
    );
  }
  for (const [target, join] of biases) {
    const saved = changes.get(target);
    changes.set(target, saved ? (own, shape) => join(saved(own, shape), shape) : join);
  }
  return changes;
}

interface LowRank {
  /** [rank, inputs] */
  readonly a: Float32Array;
  /** [outputs, rank] */
  readonly b: Float32Array;
  readonly rank: number;
  readonly outputs: number;
  readonly inputs: number;
  readonly scaling: number;
  /** The weight lies [inputs, outputs] (GPT-2's Conv1D). */
  readonly byInput: boolean;
  /** [outputs] */
  readonly magnitude: Float32Array | undefined;
}

function mergeLowRank({ a, b, rank, outputs, inputs, scaling, byInput, magnitude }: LowRank): Change {
  return (weight) => {
    const merged = new Float32Array(weight.length);
    const row = new Float64Array(inputs);
    for (let o = 0; o < outputs; o++) {
      row.fill(0);
      for (let r = 0; r < rank; r++) {
        const factor = b[o * rank + r]!;
        if (factor === 0) continue;
        for (let i = 0; i < inputs; i++) row[i]! += factor * a[r * inputs + i]!;
      }
      const at = byInput ? (i: number) => i * outputs + o : (i: number) => o * inputs + i;
      let square = 0;
      for (let i = 0; i < inputs; i++) {
        row[i] = weight[at(i)]! + scaling * row[i]!;
        square += row[i]! ** 2;
      }
      const gain = magnitude && square > 0 ? magnitude[o]! / Math.sqrt(square) : 1;
      for (let i = 0; i < inputs; i++) merged[at(i)] = gain * row[i]!;
    }
    return merged;
  };
}
