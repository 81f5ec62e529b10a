import { describe, expect, test } from 'vitest';
import { collectBytes, MemorySource, type FileSource } from './byte-source.ts';
import { streamGguf } from './gguf-write.ts';
import { InputError } from './input-error.ts';
import { writeSafetensors } from './safetensors.ts';
import { openWeights } from './weights.ts';

function folder(files: Record<string, string | Uint8Array<ArrayBuffer>>): FileSource {
  return {
    name: 'm',
    async open(path) {
      const file = Object.hasOwn(files, path) ? files[path] : undefined;
      if (file === undefined) return undefined;
      return new MemorySource(`m/${path}`, typeof file === 'string' ? new TextEncoder().encode(file) : file);
    },
    list: async () => Object.keys(files),
  };
}

const file = (name: string, value: number) =>
  writeSafetensors([{ name, dtype: 'F32', shape: [1], data: Float32Array.of(value) }], { format: 'pt' });
const index = (map: unknown) => JSON.stringify({ metadata: { total_size: 8 }, weight_map: map });

describe('a folder of weights', () => {
  test('model.safetensors, with its config', async () => {
    const weights = await openWeights(
      folder({ 'model.safetensors': file('a', 1), 'config.json': '{"model_type":"x"}' }),
    );
    expect(weights).toMatchObject({ kind: 'safetensors', files: ['m/model.safetensors'], config: { model_type: 'x' } });
    expect(weights.bytes).toBe(file('a', 1).length);
    expect(await weights.readF32('a')).toEqual(Float32Array.of(1));
  });

  test('shards are one set', async () => {
    const weights = await openWeights(
      folder({
        'model.safetensors.index.json': index({ a: 'model-1.safetensors', b: 'model-2.safetensors' }),
        'model-1.safetensors': file('a', 1),
        'model-2.safetensors': file('b', 2),
      }),
    );
    expect([...weights.tensors.keys()]).toEqual(['a', 'b']);
    expect(weights.files).toEqual(['m/model-1.safetensors', 'm/model-2.safetensors']);
    expect(weights.config).toBeUndefined();
    expect(await weights.read('b')).toEqual(Float32Array.of(2));
    await expect(weights.read('c')).rejects.toThrow('tensor c: it is not in the file');
  });

  test('a file of another name, and one of several by its name', async () => {
    const files = { 'tiny.safetensors': file('a', 1), 'adapter_model.safetensors': file('x', 9), 'README.md': '' };
    expect((await openWeights(folder(files))).files).toEqual(['m/tiny.safetensors']);
    const two = folder({ ...files, 'other.safetensors': file('a', 5) });
    await expect(openWeights(two)).rejects.toThrow('m: it holds 2 weights files (tiny.safetensors, other.safetensors)');
    const chosen = await openWeights(two, { file: 'other.safetensors' });
    expect(await chosen.readF32('a')).toEqual(Float32Array.of(5));
  });

  test('a GGUF brings its own config, but a config.json beside it comes first', async () => {
    const gguf = await collectBytes(
      streamGguf(
        [
          { key: 'general.architecture', type: 'string', value: 'llama' },
          ...['block_count', 'context_length', 'embedding_length', 'feed_forward_length', 'attention.head_count'].map(
            (key) => ({ key: `llama.${key}`, type: 'u32' as const, value: 4 }),
          ),
          { key: 'llama.attention.layer_norm_rms_epsilon', type: 'f32', value: 1e-6 },
        ],
        [{ name: 'token_embd.weight', dtype: 'F32', shape: [1, 4], data: () => new Uint8Array(16) }],
      ),
    );
    const weights = await openWeights(folder({ 'tiny.gguf': gguf }));
    expect(weights).toMatchObject({ kind: 'gguf', config: { model_type: 'llama', rms_norm_eps: 1e-6 } });
    expect((await openWeights(folder({ 'tiny.gguf': gguf, 'config.json': '{"a":1}' }))).config).toEqual({ a: 1 });
    await expect(openWeights(folder({ 'tiny-00001-of-00003.gguf': gguf }))).rejects.toThrow('one part of a split GGUF');
  });
});

test.each([
  ['nothing', {}, 'm: it holds no weights'],
  ['pickled weights', { 'pytorch_model.bin': '' }, 'm: its weights are pickled (pytorch_model.bin)'],
  ['a config that is no JSON', { 'config.json': '{' }, 'm/config.json: it is not valid JSON'],
  ['a config that is a list', { 'config.json': '[]' }, 'm/config.json: it is not an object'],
  ['an index without map', { 'model.safetensors.index.json': '{}' }, 'weight_map: it is missing'],
  [
    'an index that leads out of the folder',
    { 'model.safetensors.index.json': index({ a: '../x.safetensors' }) },
    'weight_map.a: its file is "../x.safetensors"',
  ],
  [
    'an index of a shard that is not there',
    { 'model.safetensors.index.json': index({ a: 'x.safetensors' }) },
    'weight_map.a: x.safetensors is missing',
  ],
  [
    'an index of a tensor that the shard lacks',
    { 'model.safetensors.index.json': index({ b: 'x.safetensors' }), 'x.safetensors': file('a', 1) },
    'weight_map.b: x.safetensors does not hold it',
  ],
])('%s is refused', async (_, files, message) => {
  const error = await openWeights(folder(files)).catch((e: unknown) => e);
  expect(error).toBeInstanceOf(InputError);
  expect((error as Error).message).toContain(message);
});
