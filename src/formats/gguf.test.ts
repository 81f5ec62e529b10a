import { existsSync, readFileSync } from 'node:fs';
import { homedir } from 'node:os';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { nodeFolder } from '../cli/node-files.ts';
import { collectBytes, MemorySource } from './byte-source.ts';
import { ggmlTypes, readableGgmlTypes } from './ggml-types.ts';
import { modelFromGguf } from './gguf-model.ts';
import { streamGguf, type GgufEntry, type GgufTensorToWrite } from './gguf-write.ts';
import { openGguf } from './gguf.ts';
import { InputError } from './input-error.ts';
import { readDamaged, readsOrRefuses } from './mutation.testing.ts';
import { openWeights } from './weights.ts';

type Bytes = Uint8Array<ArrayBuffer>;

const open = (bytes: Bytes) => openGguf(new MemorySource('m.gguf', bytes));

const write = (entries: GgufEntry[], tensors: GgufTensorToWrite[]) => collectBytes(streamGguf(entries, tensors));

const f32 = (name: string, shape: number[], values: Iterable<number>): GgufTensorToWrite => ({
  name,
  dtype: 'F32',
  shape,
  data: () => new Uint8Array(Float32Array.from(values).buffer),
});

const architecture = (value: string): GgufEntry => ({ key: 'general.architecture', type: 'string', value });

describe('the container', () => {
  test('every value type and tensor comes back', async () => {
    const scalars = fc.oneof(
      fc.record({ type: fc.constant('u8' as const), value: fc.nat(255) }),
      fc.record({ type: fc.constant('i16' as const), value: fc.integer({ min: -32768, max: 32767 }) }),
      fc.record({ type: fc.constant('u32' as const), value: fc.nat() }),
      fc.record({ type: fc.constant('i64' as const), value: fc.maxSafeInteger() }),
      fc.record({ type: fc.constant('u64' as const), value: fc.bigInt({ min: 2n ** 60n, max: 2n ** 64n - 1n }) }),
      fc.record({ type: fc.constant('f64' as const), value: fc.double({ noNaN: true }) }),
      fc.record({ type: fc.constant('bool' as const), value: fc.boolean() }),
      fc.record({ type: fc.constant('string' as const), value: fc.string({ unit: 'binary' }) }),
      fc.record({ type: fc.constant('string[]' as const), value: fc.array(fc.string({ unit: 'binary' })) }),
      fc.record({ type: fc.constant('i32[]' as const), value: fc.array(fc.integer()) }),
    );
    const values = fc.dictionary(fc.string({ minLength: 1 }), scalars);
    const shapes = fc.dictionary(
      fc.string({ minLength: 1, maxLength: 20, unit: 'grapheme-ascii' }),
      fc.array(fc.nat(5), { maxLength: 4 }),
    );
    await fc.assert(
      fc.asyncProperty(values, shapes, async (values, shapes) => {
        delete values['general.alignment'];
        const entries = Object.entries(values).map(([key, entry]) => ({ key, ...entry }) satisfies GgufEntry);
        const tensors = Object.entries(shapes).map(([name, shape], i) => {
          const count = shape.reduce((a, b) => a * b, 1);
          return f32(
            name,
            shape,
            Array.from({ length: count }, (_, j) => i + j / 8),
          );
        });
        const file = await open(await write([architecture('test'), ...entries], tensors));
        for (const { key, value } of entries) {
          const got = file.values.get(key);
          expect(ArrayBuffer.isView(got) ? [...(got as Int32Array)] : got).toEqual(value);
        }
        expect([...file.tensors.keys()]).toEqual(Object.keys(shapes));
        for (const { name, shape, data } of tensors) {
          expect(file.tensors.get(name)!.shape).toEqual(shape);
          expect(new Uint8Array((await file.readF32(name)).buffer)).toEqual(await data());
        }
      }),
      { numRuns: 200 },
    );
  });

  test('a long head is read through a small window', async () => {
    const tokens = Array.from({ length: 60_000 }, (_, i) => `token ${i}`);
    const bytes = await write([architecture('test'), { key: 'tokens', type: 'string[]', value: tokens }], []);
    let largest = 0;
    const memory = new MemorySource('m.gguf', bytes);
    const file = await openGguf({
      name: 'm.gguf',
      size: bytes.length,
      read(start, end) {
        largest = Math.max(largest, end - start);
        return memory.read(start, end);
      },
    });
    expect(file.values.get('tokens')).toEqual(tokens);
    expect(largest).toBeLessThanOrEqual(4 * 1024 * 1024);
  });
});

describe('quantised types', () => {
  // One block of random bits a type, and what the Python package `gguf` 0.19 (by llama.cpp's authors) makes of it.
  const fixture = JSON.parse(readFileSync(new URL('ggml-types.fixture.json', import.meta.url), 'utf8')) as Record<
    string,
    { blocks: string; values: string }
  >;
  test.each(Object.entries(fixture))('%s is bit for bit what ggml says', (name, { blocks, values }) => {
    const type = [...ggmlTypes.values()].find((type) => type.name === name)!;
    const got = type.dequantise!(Uint8Array.from(Buffer.from(blocks, 'base64')));
    const expected = new Float32Array(Uint8Array.from(Buffer.from(values, 'base64')).buffer);
    expect(got).toEqual(expected);
  });

  test('every type that is promised is in the fixture', () => {
    expect(Object.keys(fixture).sort()).toEqual(readableGgmlTypes.filter((name) => name !== 'F64').sort());
  });
});

/** What llama.cpp's converter does to the rows of q and k: w.reshape(heads, 2, d/2, width).swapaxes(1, 2). */
function permuted(w: number[], heads: number, rows: number, width: number): number[] {
  const half = rows / heads / 2;
  const out: number[] = [];
  for (let h = 0; h < heads; h++)
    for (let i = 0; i < half; i++)
      for (let part = 0; part < 2; part++)
        for (let c = 0; c < width; c++) out.push(w[((h * 2 + part) * half + i) * width + c]!);
  return out;
}

const numbers = (prefix: string, values: Record<string, number>): GgufEntry[] =>
  Object.entries(values).map(([key, value]) => ({
    key: `${prefix}.${key}`,
    type: Number.isInteger(value) && !key.includes('freq') ? 'u32' : 'f32',
    value,
  }));

const count = (n: number, from = 0) => Array.from({ length: n }, (_, i) => from + i);

const llamaSize = {
  block_count: 1,
  context_length: 64,
  embedding_length: 8,
  feed_forward_length: 4,
  'attention.head_count': 2,
  'attention.head_count_kv': 1,
  'rope.freq_base': 100000,
  'attention.layer_norm_rms_epsilon': 1e-5,
};

describe('the model in it', () => {
  test('llama: hub names, rows of q and k in the hub’s order, a config', async () => {
    const q = count(64);
    const k = count(32, 100);
    const bytes = await write(
      [
        architecture('llama'),
        ...numbers('llama', llamaSize),
        { key: 'tokenizer.ggml.bos_token_id', type: 'u32', value: 1 },
        { key: 'tokenizer.ggml.eos_token_id', type: 'u32', value: 2 },
      ],
      [
        f32('token_embd.weight', [5, 8], count(40)),
        f32('blk.0.attn_q.weight', [8, 8], permuted(q, 2, 8, 8)),
        f32('blk.0.attn_k.weight', [4, 8], permuted(k, 1, 4, 8)),
        f32('blk.0.attn_v.weight', [4, 8], count(32)),
        f32('blk.0.ffn_down.weight', [8, 4], count(32)),
        f32('output_norm.weight', [8], count(8)),
      ],
    );
    const model = await modelFromGguf(await open(bytes));
    expect([...model.tensors.keys()]).toEqual([
      'model.embed_tokens.weight',
      'model.layers.0.self_attn.q_proj.weight',
      'model.layers.0.self_attn.k_proj.weight',
      'model.layers.0.self_attn.v_proj.weight',
      'model.layers.0.mlp.down_proj.weight',
      'model.norm.weight',
    ]);
    expect([...(await model.readF32('model.layers.0.self_attn.q_proj.weight'))]).toEqual(q);
    expect(await model.read('model.layers.0.self_attn.k_proj.weight')).toEqual(Float32Array.from(k));
    expect([...(await model.readF32('model.layers.0.self_attn.v_proj.weight'))]).toEqual(count(32));
    expect(model.config).toEqual({
      architectures: ['LlamaForCausalLM'],
      model_type: 'llama',
      vocab_size: 5,
      hidden_size: 8,
      intermediate_size: 4,
      num_hidden_layers: 1,
      num_attention_heads: 2,
      num_key_value_heads: 1,
      head_dim: 4,
      max_position_embeddings: 64,
      rms_norm_eps: 1e-5,
      rope_theta: 100000,
      tie_word_embeddings: true,
      bos_token_id: 1,
      eos_token_id: 2,
      pad_token_id: null,
      hidden_act: 'silu',
      attention_bias: false,
      mlp_bias: false,
    });
  });

  test('llama 3: the factors of its rotary come back as its rope_scaling; others are refused', async () => {
    const write3 = (factors: number[]) =>
      write(
        [architecture('llama'), ...numbers('llama', { ...llamaSize, 'rope.freq_base': 500000 })],
        [f32('token_embd.weight', [5, 8], count(40)), f32('rope_freqs.weight', [factors.length], factors)],
      );
    // transformers' _compute_llama3_parameters with factor 32, in its own words.
    const factors = count(32).map((i) => {
      const wavelength = 2 * Math.PI * 500000 ** (i / 32);
      if (wavelength < 8192 / 4) return 1;
      if (wavelength > 8192) return 32;
      const smooth = (8192 / wavelength - 1) / (4 - 1);
      return 1 / ((1 - smooth) / 32 + smooth);
    });
    const model = await modelFromGguf(await open(await write3(factors)));
    expect(model.config.rope_scaling).toEqual({
      rope_type: 'llama3',
      factor: 32,
      low_freq_factor: 1,
      high_freq_factor: 4,
      original_max_position_embeddings: 8192,
    });
    expect(model.tensors.has('rope_freqs.weight')).toBe(false);
    const other = await open(await write3(factors.map((f, i) => f * (1 + i / 32))));
    await expect(modelFromGguf(other)).rejects.toThrow("not those of Llama 3's releases");
  });

  test('gemma3: norms lose their 1; gpt2: Conv1D weights turn back', async () => {
    const gemma = await modelFromGguf(
      await open(
        await write(
          [
            architecture('gemma3'),
            ...numbers('gemma3', { ...llamaSize, 'attention.key_length': 6, 'attention.sliding_window': 512 }),
          ],
          [
            f32('token_embd.weight', [5, 8], count(40)),
            f32('blk.0.ffn_norm.weight', [2], [1.5, 0.5]),
            f32('blk.0.attn_q_norm.weight', [2], [2, 3]),
          ],
        ),
      ),
    );
    expect([...(await gemma.readF32('model.layers.0.pre_feedforward_layernorm.weight'))]).toEqual([0.5, -0.5]);
    expect([...(await gemma.readF32('model.layers.0.self_attn.q_norm.weight'))]).toEqual([1, 2]);
    expect(gemma.config).toMatchObject({ model_type: 'gemma3_text', head_dim: 6, query_pre_attn_scalar: 6 });

    const gpt2 = await modelFromGguf(
      await open(
        await write(
          [architecture('gpt2'), ...numbers('gpt2', llamaSize)],
          [f32('token_embd.weight', [5, 8], count(40)), f32('blk.0.ffn_up.weight', [2, 3], [1, 2, 3, 4, 5, 6])],
        ),
      ),
    );
    expect(gpt2.tensors.get('transformer.h.0.mlp.c_fc.weight')!.shape).toEqual([3, 2]);
    expect([...(await gpt2.readF32('transformer.h.0.mlp.c_fc.weight'))]).toEqual([1, 4, 2, 5, 3, 6]);
    await expect(gpt2.read('transformer.h.0.mlp.c_fc.weight')).rejects.toThrow('the file holds it transposed');
  });

  test.each([
    ['an unknown architecture', [architecture('mamba')], [], 'general.architecture: it is mamba'],
    ['no architecture', [], [], 'general.architecture: it is missing'],
    [
      'a tensor of no known name',
      [architecture('llama')],
      [f32('blk.0.ffn_gate_exps.weight', [1], [1])],
      'its name is',
    ],
    ['no embedding', [architecture('qwen2'), ...numbers('qwen2', llamaSize)], [], 'token_embd.weight: it is not in'],
    [
      'heads that do not fit',
      [architecture('llama'), ...numbers('llama', { ...llamaSize, 'attention.head_count': 3 })],
      [f32('blk.0.attn_q.weight', [8, 1], count(8))],
      'it has 8 rows',
    ],
    [
      'a missing size',
      [architecture('llama'), ...numbers('llama', { block_count: 1 })],
      [f32('token_embd.weight', [1], [1])],
      'metadata llama.attention.head_count: it is missing',
    ],
  ])('%s is refused', async (_, entries, tensors, message) => {
    const error = await write(entries, tensors)
      .then(open)
      .then(modelFromGguf)
      .catch((e: unknown) => e);
    expect(error).toBeInstanceOf(InputError);
    expect((error as Error).message).toContain(message);
  });
});

describe('bad files', async () => {
  const small = await write(
    [
      architecture('llama'),
      ...numbers('llama', llamaSize),
      { key: 'tokens', type: 'string[]', value: ['a', 'bc', ''] },
      { key: 'scores', type: 'f32[]', value: [1, 2] },
      { key: 'flag', type: 'bool', value: true },
    ],
    [
      f32('token_embd.weight', [2, 8], count(16)),
      { name: 'blk.0.ffn_down.weight', dtype: 'Q8_0', shape: [1, 32], data: () => new Uint8Array(34).fill(1) },
      f32('output_norm.weight', [8], count(8)),
    ],
  );
  const empty = await write([architecture('x')], []);

  async function readEverything(bytes: Bytes): Promise<void> {
    const file = await open(bytes);
    for (const name of file.tensors.keys()) await file.readF32(name);
    if (file.architecture === 'x') return;
    const model = await modelFromGguf(file);
    for (const name of model.tensors.keys()) await model.readF32(name);
  }

  function patched(at: number, bytes: number[]): Bytes {
    const copy = small.slice();
    copy.set(bytes, at);
    return copy;
  }

  test.each([
    ['not GGUF', patched(0, [0]), 'does not start with GGUF'],
    ['version 1', patched(4, [1]), 'it is of version 1'],
    ['big-endian', patched(4, [0, 0, 0, 3]), 'it is big-endian'],
    ['2^63 tensors', patched(8, [0, 0, 0, 0, 0, 0, 0, 128]), 'tensor count: it is 9223372036854775808'],
    ['a million tensors', patched(8, [0x40, 0x42, 0x0f]), 'tensor count: 1000000 do not fit a file of'],
    ['a key of a petabyte', patched(24, [0, 0, 0, 0, 0, 0, 4]), 'a string of 1125899906842624'],
  ])('%s', async (_, bytes, message) => {
    await expect(readEverything(bytes)).rejects.toThrow(message);
    await expect(readEverything(bytes)).rejects.toBeInstanceOf(InputError);
  });

  test('tensors of a petabyte, overlapping, off their alignment, of odd rows, twice', async () => {
    const tensor = (name: string, shape: number[], offset: number, type = 0) => ({ name, shape, offset, type });
    /** Entries as given, and 64 bytes of data. */
    const file = async (...tensors: ReturnType<typeof tensor>[]) => {
      const parts: number[] = [];
      const u32 = (value: number) => parts.push(...new Uint8Array(Uint32Array.of(value).buffer));
      const u64 = (value: number) => parts.push(...new Uint8Array(BigUint64Array.of(BigInt(value)).buffer));
      parts.push(...new Uint8Array((await write([architecture('x')], [])).subarray(0, 24 + 8 + 20 + 4 + 8 + 1)));
      parts[8] = tensors.length;
      for (const { name, shape, offset, type } of tensors) {
        u64(name.length);
        parts.push(...new TextEncoder().encode(name));
        u32(shape.length);
        shape.toReversed().forEach(u64);
        u32(type);
        u64(offset);
      }
      while (parts.length % 32 !== 0) parts.push(0);
      return open(Uint8Array.from([...parts, ...new Uint8Array(64)]));
    };
    expect((await file(tensor('a', [2, 4], 0), tensor('b', [8], 32))).tensors.size).toBe(2);
    await expect(file(tensor('a', [2 ** 25, 2 ** 25], 0))).rejects.toThrow('tensor a: it would end at byte');
    await expect(file(tensor('a', [2 ** 30, 2 ** 30], 0))).rejects.toThrow('all together below 2^53');
    await expect(file(tensor('a', [2 ** 33], 0))).rejects.toThrow('a dimension is 8589934592');
    await expect(file(tensor('a', [16], 0), tensor('b', [8], 32))).rejects.toThrow('tensor b: it overlaps tensor a');
    await expect(file(tensor('a', [4], 8))).rejects.toThrow('its data starts at 8: a multiple of 32');
    await expect(file(tensor('a', [1, 16], 0, 8))).rejects.toThrow('its rows have 16 weights of Q8_0');
    await expect(file(tensor('a', [4], 0, 77))).rejects.toThrow('its type is number 77');
    await expect(file(tensor('a', [4], 0), tensor('a', [4], 32))).rejects.toThrow('tensor a: it appears twice');
    await expect(file(tensor('a', [1, 1, 1, 1, 1], 0))).rejects.toThrow('it has 5 dimensions');
    const unreadable = await file(tensor('a', [32], 0, 20));
    await expect(unreadable.readF32('a')).rejects.toThrow('it is stored as IQ4_NL: F32, F16, Q4_0');
  });

  test('cut at every byte of the head, and inside the last tensor, it is refused', async () => {
    for (let length = 0; length < small.length; length++) {
      expect(await readsOrRefuses(length, () => readEverything(small.slice(0, length))), `${length}`).toBe(false);
    }
  });

  test('2,000 damaged files are read or refused, never worse', async () => {
    const outcomes = await readDamaged([small, small, empty], 2000, readEverything);
    expect(outcomes.refused).toBeGreaterThan(500);
    expect(outcomes.read).toBeGreaterThan(20);
  });
});

const real = `${homedir()}/.cache/stillroom-models/smollm2`;
test.skipIf(!existsSync(real))(`SmolLM2-135M-Instruct (${real}, where it is there)`, async () => {
  const weights = await openWeights(nodeFolder(real));
  expect(weights.kind).toBe('gguf');
  expect(weights.config).toMatchObject({
    model_type: 'llama',
    vocab_size: 49152,
    hidden_size: 576,
    num_hidden_layers: 30,
    num_attention_heads: 9,
    num_key_value_heads: 3,
    rms_norm_eps: 1e-5,
    rope_theta: 100000,
    tie_word_embeddings: true,
    bos_token_id: 1,
    eos_token_id: 2,
    pad_token_id: 2,
  });
  expect(weights.tensors.size).toBe(272);
  expect(weights.tensors.get('model.layers.0.mlp.down_proj.weight')).toMatchObject({
    dtype: 'Q4_1',
    shape: [576, 1536],
  });
  // Row 1 of layer 3's q by the Python package `gguf`, its rows put back as the converter found them.
  const q = await weights.readF32('model.layers.3.self_attn.q_proj.weight');
  expect([...q.subarray(576, 580)]).toEqual([
    -0.011138916015625, -0.1654052734375, -0.1654052734375, 0.091705322265625,
  ]);
});
