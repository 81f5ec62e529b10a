/**
 * Merged weights as one GGUF: metadata, tokenizer with its template, tensors in the order of the model. As llama.cpp's own
 * files: what has one dimension stays f32; embedding and head of a Q4_0 file are Q8_0, as four bits there cost most.
 */
import { encodeGgml, ggmlBytes, QUANTISED_BLOCK, type WrittenGgmlType } from '../../formats/ggml-quantise.ts';
import { architectures, ggmlName } from '../../formats/gguf-architectures.ts';
import { changedForGguf } from '../../formats/gguf-model.ts';
import { streamGguf, type GgufEntry, type GgufTensorToWrite } from '../../formats/gguf-write.ts';
import { InputError } from '../../formats/input-error.ts';
import type { WeightSource } from '../merge.ts';
import type { GgufShape } from './metadata.ts';

/** Of `general.file_type`: llama.cpp's `LLAMA_FTYPE_*`. */
const FILE_TYPES: Readonly<Record<WrittenGgmlType, number>> = { F32: 0, F16: 1, Q4_0: 2, Q8_0: 7 };
/** Of the quantised blocks' layout (ggml's GGML_QNT_VERSION). */
const QUANTISATION_VERSION = 2;

export interface GgufContent {
  readonly shape: GgufShape;
  /** `general.*` and `tokenizer.*`. */
  readonly entries: readonly GgufEntry[];
  readonly weights: WeightSource;
  /** Hub names. */
  readonly names: Iterable<string>;
}

export interface GgufToWrite {
  readonly tensors: readonly GgufTensorToWrite[];
  /** Of the tensors; the head comes on top. */
  readonly bytes: number;
  readonly data: () => AsyncIterable<Uint8Array>;
}

export function ggufFile({ shape, entries, weights, names }: GgufContent, type: WrittenGgmlType): GgufToWrite {
  const architecture = architectures[shape.architecture]!;
  const counts = (name: string, otherwise?: number): number => {
    const entry = shape.entries.find(({ key }) => key === `${shape.architecture}.${name}`);
    return (entry?.value as number | undefined) ?? otherwise!;
  };
  const tensors: GgufTensorToWrite[] = [];
  let bytes = 0;
  for (const hub of names) {
    const name = ggmlName(architecture, hub);
    const hubShape = weights.tensors.get(hub)!.shape;
    if (name === undefined) {
      throw new InputError(weights.name, `tensor ${hub}`, `a ${shape.architecture} GGUF has no name for it`, 'no GGUF');
    }
    const change = architecture.change(name, { count: counts });
    const stored = change?.kind === 'transposed' ? hubShape.toReversed() : hubShape;
    const dtype = typeOf(type, name, stored);
    bytes += ggmlBytes(
      dtype,
      stored.reduce((product, size) => product * size, 1),
    );
    tensors.push({
      name,
      dtype,
      shape: stored,
      data: async () => encodeGgml(dtype, changedForGguf(await weights.readF32(hub), hubShape, change).data),
    });
  }
  for (const [name, factors] of shape.ropeFactors) {
    tensors.push({ name, dtype: 'F32', shape: [factors.length], data: () => new Uint8Array(factors.buffer) });
  }
  const head: GgufEntry[] = [
    { key: 'general.architecture', type: 'string', value: shape.architecture },
    { key: 'general.file_type', type: 'u32', value: FILE_TYPES[type] },
    { key: 'general.quantization_version', type: 'u32', value: QUANTISATION_VERSION },
    ...shape.entries,
    ...entries,
  ];
  return { tensors, bytes, data: () => streamGguf(head, tensors) };
}

export function typeOf(type: WrittenGgmlType, name: string, shape: readonly number[]): WrittenGgmlType {
  if (type === 'F32' || shape.length < 2) return 'F32';
  if (type === 'F16' || shape.at(-1)! % QUANTISED_BLOCK !== 0) return 'F16';
  return type === 'Q4_0' && /^(token_embd|output)\.weight$/.test(name) ? 'Q8_0' : type;
}
