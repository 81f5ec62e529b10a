import { describe, expect, it } from 'vitest';
import { MemorySource, type FileSource } from '../../formats/byte-source.ts';
import { baseParameters } from '../../models/model.ts';
import { SMOLLM2 } from '../bench/shapes.ts';
import { parseRecipe } from '../../recipe/parse.ts';
import type { RecipeInput } from '../../recipe/schema.ts';
import { refuseTooLarge, refuseTooLargeByConfig } from './too-large.ts';

/** DeepSeek-R1-Distill-Qwen-32B's config.json, where it differs. */
const R1_32B = {
  ...SMOLLM2,
  vocab_size: 152064,
  hidden_size: 5120,
  num_hidden_layers: 64,
  num_attention_heads: 40,
  num_key_value_heads: 8,
  head_dim: 128,
  intermediate_size: 27648,
  tie_word_embeddings: false,
  qkv_bias: true,
};
const laptop = { maxBufferSize: 4 * 2 ** 30, maxStorageBufferBindingSize: 2 * 2 ** 30 };

describe('a model too large for the adapter', () => {
  it('is refused by its config, with what would fit', () => {
    const model = { name: 'deepseek-ai/DeepSeek-R1-Distill-Qwen-32B', parameters: baseParameters(R1_32B) };
    expect(() => refuseTooLarge(model, laptop, 'teacher')).toThrow(
      'deepseek-ai/DeepSeek-R1-Distill-Qwen-32B: its weights: they take 130 GB, too much for this graphics adapter: ' +
        'a model of at most 69 GB (16 of the adapter’s largest buffers); ' +
        'or this one behind a server, on a machine that it fits (teacher.kind "endpoint")',
    );
    // its largest tensor alone is 3.1 GB, and is no reason: packed, the whole fits
    const held = new Map([...model.parameters].map(([name]) => [name, 'int4' as const]));
    expect(() => refuseTooLarge({ ...model, options: { held } }, laptop, 'teacher')).not.toThrow();
  });

  it('is refused before a file of weights is asked for', async () => {
    const config = {
      model_type: 'qwen2',
      hidden_act: 'silu',
      hidden_size: 5120,
      intermediate_size: 27648,
      max_position_embeddings: 131072,
      num_attention_heads: 40,
      num_hidden_layers: 64,
      num_key_value_heads: 8,
      rms_norm_eps: 1e-5,
      rope_theta: 1e6,
      vocab_size: 152064,
    };
    const asked: string[] = [];
    const bring = (place: string, name: string): Promise<FileSource> =>
      Promise.resolve({
        name,
        open: (path) => {
          asked.push(`${place} ${path}`);
          const text = JSON.stringify({ ...config, ...(name === 'small' && { num_hidden_layers: 2, vocab_size: 99 }) });
          return Promise.resolve(new MemorySource(path, new TextEncoder().encode(text)));
        },
      });
    const refused = (recipe: Omit<RecipeInput, 'data'>): Promise<void> =>
      refuseTooLargeByConfig(
        { recipe: parseRecipe({ ...recipe, data: { source: 'rows.jsonl' } }, 'r.json'), sources: { model: bring } },
        laptop,
      );
    const teacher = { kind: 'engine', model: 'hub:deepseek-ai/DeepSeek-R1-Distill-Qwen-32B' } as const;
    await expect(refused({ student: { model: 'small' }, teacher })).rejects.toThrow('or this one behind a server');
    expect(asked).toEqual(['student.model config.json', 'teacher.model config.json']);
    await expect(refused({ student: { model: teacher.model } })).rejects.toThrow('they take 130 GB');
    await refused({ student: { model: 'small' }, teacher: { kind: 'engine', model: 'small' } });
    // cut to a few layers it may fit
    await refused({ student: { model: teacher.model, compress: { num_hidden_layers: 2 } } });
  });

  it('is none whose tensors can lie in windows', () => {
    const promised = { maxBufferSize: 2 ** 28, maxStorageBufferBindingSize: 2 ** 27 };
    // an embedding of 545 MB
    const qwen = { ...SMOLLM2, vocab_size: 151936, hidden_size: 896, num_hidden_layers: 24, intermediate_size: 4864 };
    for (const options of [SMOLLM2, qwen]) {
      const model = { name: 'a model', parameters: baseParameters(options) };
      expect(() => refuseTooLarge(model, promised, 'student')).not.toThrow();
      expect(() => refuseTooLarge(model, laptop, 'student')).not.toThrow();
    }
    const wide = { name: 'wide', parameters: new Map([['w', [256, 2 ** 20]]]) };
    expect(() => refuseTooLarge(wide, promised, 'student')).toThrow('wide: w: 64 of its 1.1 GB of rows are too much');
  });
});
