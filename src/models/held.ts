/**
 * How a student's frozen weights are held (`student.dtype`, `student.block_size`). Rounding happens where a weight is read, so that everything
 * that the run makes of them (training, answers, merge, export) computes with the same numbers: what is exported is what was
 * trained and measured, as when a QLoRA adapter is merged into its dequantised base.
 */
import { packedAs, type BlockSize, type PackedDType, type PackedKind } from '../engine/graph/packing.ts';
import { pack, unpack } from '../formats/pack-weights.ts';
import type { ModelOptions } from './architectures/index.ts';
import type { Model } from './model.ts';

const EIGHT_BITS: Partial<Record<PackedKind, PackedKind>> = { int4: 'int8', nf4: 'int8', uint4: 'uint8' };

/**
 * @param block numbers of a block; undefined: the kind's own
 * @param trained whether the weight of this name is trained: those stay f32
 * @returns the model with its matrices held as `kind`; embedding and head, whose rows a softmax compares, in eight bits
 * where that has four
 */
export function heldAs<M extends Model<ModelOptions>>(
  model: M,
  kind: PackedKind,
  block: BlockSize | undefined,
  trained: (name: string) => boolean,
): M {
  const held = new Map<string, PackedDType>();
  for (const [name, shape] of model.parameters) {
    if (shape.length !== 2 || trained(name)) continue;
    const softmax = shape[0] === model.options.vocab_size;
    held.set(name, packedAs(softmax ? (EIGHT_BITS[kind] ?? kind) : kind, block));
  }
  const { weights } = model;
  const readF32 = async (name: string): Promise<Float32Array<ArrayBuffer>> => {
    const data = await weights.readF32(name);
    const as = held.get(name);
    return as ? unpack(as, pack(as, data), data.length) : data;
  };
  const { name, tensors, metadata } = weights;
  return {
    ...model,
    options: { ...model.options, held },
    weights: { name, tensors, metadata, read: readF32, readF32 },
  };
}
