/** A model whose weights are hashed as they are read: SHA-256 over names and f32 values, in the order of reading. */
import { createSHA256 } from 'hash-wasm';
import type { Model } from '../../models/model.ts';

export async function hashedWeights<M extends Pick<Model, 'weights'>>(
  model: M,
): Promise<{ model: M; digest: () => string }> {
  const hash = await createSHA256();
  hash.init();
  const { weights } = model;
  const hashing: Model['weights'] = {
    name: weights.name,
    tensors: weights.tensors,
    metadata: weights.metadata,
    read: (name) => weights.read(name),
    async readF32(name) {
      const data = await weights.readF32(name);
      hash.update(new TextEncoder().encode(name));
      hash.update(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
      return data;
    },
  };
  return { model: { ...model, weights: hashing }, digest: () => hash.digest('hex') };
}
