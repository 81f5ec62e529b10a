/** Merged weights as safetensors, in shards with their index where they are many, named as transformers names them. */
import { safetensorsSize, streamSafetensors, type TensorToWrite } from '../formats/safetensors.ts';
import type { WeightSource } from './merge.ts';

export interface FileToWrite {
  readonly path: string;
  readonly bytes: number;
  readonly data: () => AsyncIterable<Uint8Array> | Uint8Array;
}

/** A shard's bytes; transformers' `max_shard_size` by default. */
const SHARD_BYTES = 5e9;
const METADATA = { format: 'pt' };

export function safetensorsFiles(
  weights: WeightSource,
  names: Iterable<string>,
  { dtype = 'F32', shardBytes = SHARD_BYTES }: { dtype?: 'F32' | 'F16' | 'BF16'; shardBytes?: number } = {},
): FileToWrite[] {
  const elementBytes = dtype === 'F32' ? 4 : 2;
  const shards: TensorToWrite[][] = [[]];
  let filled = 0;
  let total = 0;
  for (const name of names) {
    const { shape } = weights.tensors.get(name)!;
    const bytes = shape.reduce((product, size) => product * size, elementBytes);
    if (filled > 0 && filled + bytes > shardBytes) {
      shards.push([]);
      filled = 0;
    }
    shards.at(-1)!.push({ name, dtype, shape, data: () => weights.readF32(name) });
    filled += bytes;
    total += bytes;
  }
  const file = (path: string, tensors: TensorToWrite[]): FileToWrite => ({
    path,
    bytes: safetensorsSize(tensors, METADATA),
    data: () => streamSafetensors(tensors, METADATA),
  });
  if (shards.length === 1) return [file('model.safetensors', shards[0]!)];

  const number = (i: number): string => String(i).padStart(5, '0');
  const files = shards.map((tensors, i) =>
    file(`model-${number(i + 1)}-of-${number(shards.length)}.safetensors`, tensors),
  );
  const weight_map = Object.fromEntries(
    shards.flatMap((tensors, i) => tensors.map(({ name }) => [name, files[i]!.path])),
  );
  const index = new TextEncoder().encode(
    `${JSON.stringify({ metadata: { total_size: total }, weight_map }, null, 2)}\n`,
  );
  return [...files, { path: 'model.safetensors.index.json', bytes: index.length, data: () => index }];
}
