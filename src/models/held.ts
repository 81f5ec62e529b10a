/**
 * How a student's frozen weights are held (`student.dtype`). Rounding happens where a weight is read, so that everything
 * that the run makes of them (training, answers, merge, export) computes with the same numbers: what is exported is what was
 * trained and measured, as when a QLoRA adapter is merged into its dequantised base.
 */
import type { PackedDType } from '../engine/graph/packing.ts';
import { pack, unpack } from '../formats/pack-weights.ts';
import type { ModelOptions } from './architectures/index.ts';
import type { Model } from './model.ts';

/**
 * @param trained whether the weight of this name is trained: those stay f32
 * @returns the model with its matrices held as `dtype`; embedding and head, whose rows a softmax compares, no coarser
 * than int8
 */
export function heldAs<M extends Model<ModelOptions>>(
  model: M,
  dtype: PackedDType,
  trained: (name: string) => boolean,
): M {
  const held = new Map<string, PackedDType>();
  for (const [name, shape] of model.parameters) {
    if (shape.length !== 2 || trained(name)) continue;
    held.set(name, (dtype === 'int4' || dtype === 'nf4') && shape[0] === model.options.vocab_size ? 'int8' : dtype);
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
