import { existsSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { nodeFile } from '../cli/node-files.ts';
import { collectBytes, MemorySource } from './byte-source.ts';
import { f16ToF32, f32ToBf16, f32ToF16 } from './half.ts';
import { InputError } from './input-error.ts';
import { readDamaged, readsOrRefuses } from './mutation.testing.ts';
import { openSafetensors, safetensorsSize, streamSafetensors, writeSafetensors } from './safetensors.ts';
import type { TensorData } from './tensor-file.ts';

const open = (bytes: Uint8Array<ArrayBuffer>) => openSafetensors(new MemorySource('m.safetensors', bytes));

async function readEverything(bytes: Uint8Array<ArrayBuffer>): Promise<void> {
  const file = await open(bytes);
  for (const [name, { dtype }] of file.tensors) {
    await file.read(name);
    if (/^(F64|F32|F16|BF16)$/.test(dtype)) await file.readF32(name);
  }
}

/** A file made by hand: any header, then `dataBytes` zeros. */
function handmade(header: string, dataBytes: number, length = BigInt(new TextEncoder().encode(header).length)) {
  const text = new TextEncoder().encode(header);
  const file = new Uint8Array(8 + text.length + dataBytes);
  new DataView(file.buffer).setBigUint64(0, length, true);
  file.set(text, 8);
  return file;
}

const arrays: Record<string, (n: number) => fc.Arbitrary<TensorData>> = {
  F32: (n) => fc.float32Array({ minLength: n, maxLength: n }).map((a) => Float32Array.from(a)),
  F64: (n) => fc.float64Array({ minLength: n, maxLength: n }).map((a) => Float64Array.from(a)),
  I64: (n) => fc.bigInt64Array({ minLength: n, maxLength: n }).map((a) => BigInt64Array.from(a)),
  I32: (n) => fc.int32Array({ minLength: n, maxLength: n }).map((a) => Int32Array.from(a)),
  F16: (n) => fc.uint16Array({ minLength: n, maxLength: n }).map((a) => Uint16Array.from(a)),
  BF16: (n) => fc.uint16Array({ minLength: n, maxLength: n }).map((a) => Uint16Array.from(a)),
  U8: (n) => fc.uint8Array({ minLength: n, maxLength: n }).map((a) => Uint8Array.from(a)),
  BOOL: (n) => fc.uint8Array({ minLength: n, maxLength: n, max: 1 }).map((a) => Uint8Array.from(a)),
};

const tensor = fc
  .tuple(
    fc.oneof(
      fc.string({ minLength: 1 }),
      fc.constantFrom('0', '10', '__proto__', 'model.norm.weight', 'ünï "quoted"\\'),
    ),
    fc.constantFrom(...Object.keys(arrays)),
    fc.array(fc.nat(4), { maxLength: 4 }),
  )
  .chain(([name, dtype, shape]) =>
    arrays[dtype]!(shape.reduce((a, b) => a * b, 1)).map((data) => ({ name, dtype, shape, data })),
  );
const tensorLists = fc.uniqueArray(tensor, { maxLength: 8, selector: (t) => t.name });

describe('round trip', () => {
  test('names, dtypes, shapes, metadata and every bit come back; the streamed file is the same file', async () => {
    await fc.assert(
      fc.asyncProperty(tensorLists, fc.dictionary(fc.string(), fc.string()), async (tensors, metadata) => {
        const bytes = writeSafetensors(tensors, metadata);
        expect(bytes.length).toBe(safetensorsSize(tensors, metadata));
        const lazily = tensors.map((t) => ({ ...t, data: async () => t.data }));
        const streamed = await collectBytes(streamSafetensors(lazily, metadata));
        expect(Buffer.compare(streamed, bytes)).toBe(0);

        const file = await open(bytes);
        expect(Object.entries(file.metadata)).toEqual(Object.entries(metadata));
        expect(file.tensors.size).toBe(tensors.length);
        for (const { name, dtype, shape, data } of tensors) {
          expect(file.tensors.get(name)).toMatchObject({ dtype, shape, bytes: data.byteLength });
          const back = await file.read(name);
          expect(back.constructor).toBe(data.constructor);
          expect(Buffer.compare(Buffer.from(back.buffer), Buffer.from(data.buffer))).toBe(0);
        }
      }),
      { numRuns: 200 },
    );
  });

  test('the header is padded so that data starts at a multiple of 8', () => {
    for (const name of ['a', 'ab', 'abc', 'abcd', 'abcde', 'abcdef', 'abcdefg', 'abcdefgh']) {
      const bytes = writeSafetensors([{ name, dtype: 'F32', shape: [1], data: Float32Array.of(1) }]);
      expect((bytes.length - 4) % 8).toBe(0);
    }
  });

  test('f32 values are rounded on writing as F16 and BF16 and widened on reading', async () => {
    const values = Float32Array.of(1, -2.71828, 1e-7, 65504);
    const file = await open(
      writeSafetensors([
        { name: 'half', dtype: 'F16', shape: [4], data: values },
        { name: 'brain', dtype: 'BF16', shape: [2, 2], data: values },
        { name: 'double', dtype: 'F64', shape: [4], data: values },
      ]),
    );
    expect(await file.read('half')).toEqual(f32ToF16(values));
    expect(await file.readF32('half')).toEqual(f16ToF32(f32ToF16(values)));
    expect(await file.read('brain')).toEqual(f32ToBf16(values));
    expect(await file.readF32('double')).toEqual(values);
  });

  test('what a tensor gives is its own: changing it changes nothing else', async () => {
    const bytes = writeSafetensors([{ name: 'w', dtype: 'F32', shape: [2], data: Float32Array.of(1, 2) }]);
    const file = await open(bytes);
    (await file.readF32('w')).fill(9);
    expect(await file.readF32('w')).toEqual(Float32Array.of(1, 2));
  });

  test('the writer refuses data that is not of its shape or dtype, and a name twice', () => {
    const w = { name: 'w', dtype: 'F32', shape: [3], data: Float32Array.of(1, 2) };
    expect(() => writeSafetensors([w])).toThrow('w: Float32Array(2) is not F32 [3]');
    expect(() => writeSafetensors([{ ...w, shape: [1], data: Float64Array.of(1) }])).toThrow('is not F32');
    expect(() =>
      writeSafetensors([
        { ...w, shape: [2] },
        { ...w, shape: [2] },
      ]),
    ).toThrow('the name is taken');
  });
});

describe('bad files', () => {
  const f32 = (begin: number, end: number, shape = [(end - begin) / 4]) =>
    JSON.stringify({ dtype: 'F32', shape, data_offsets: [begin, end] });
  test.each([
    ['an empty file', new Uint8Array(0), 'the file has 0 bytes'],
    ['a header of a petabyte', handmade('{}', 0, 10n ** 15n), 'it claims to be 1000000000000000 bytes long'],
    ['a header of 2^64 - 1', handmade('{}', 0, (1n << 64n) - 1n), 'it claims to be 18446744073709551615 bytes long'],
    ['a header longer than the file', handmade('{}', 0, 100n), 'claims 100 bytes of a file of 10'],
    ['no object', handmade('[]', 0), 'does not start with {'],
    ['no JSON', handmade('{"a"', 0), 'it is not valid'],
    ['a name twice', handmade(`{"a":${f32(0, 4)},"\\u0061":${f32(0, 4)}}`, 4), 'the key "a" appears twice'],
    ['a key twice', handmade('{"a":{"dtype":"F32","dtype":"I32","shape":[1],"data_offsets":[0,4]}}', 4), 'twice'],
    ['a hole', handmade(`{"a":${f32(0, 4)},"b":${f32(8, 12)}}`, 12), 'starts at byte 8 of the data'],
    ['an overlap', handmade(`{"a":${f32(0, 8)},"b":${f32(4, 12)}}`, 12), 'starts at byte 4 of the data'],
    ['a first tensor not at 0', handmade(`{"a":${f32(4, 8)}}`, 8), 'starts at byte 4'],
    ['bytes behind the data', handmade(`{"a":${f32(0, 4)}}`, 5), 'the header describes a file of'],
    ['data cut short', handmade(`{"a":${f32(0, 4)}}`, 3), 'the header describes a file of'],
    ['a tensor of a petabyte', handmade(`{"a":${f32(0, 10 ** 15)}}`, 4), 'the header describes a file of'],
    ['a shape that overflows', handmade(`{"a":${f32(0, 4, [2 ** 40, 2 ** 40])}}`, 4), 'its shape is'],
    ['an overflow times 0', handmade(`{"a":${f32(0, 0, [2 ** 40, 2 ** 40, 0])}}`, 0), 'its shape is'],
    ['a negative size', handmade(`{"a":${f32(0, 4, [-1, -1])}}`, 4), 'its shape is [-1,-1]'],
    ['a shape of other bytes', handmade(`{"a":${f32(0, 8, [3])}}`, 8), 'needs 12 bytes and its data_offsets hold 8'],
    ['half a byte', handmade('{"a":{"dtype":"F4","shape":[3],"data_offsets":[0,2]}}', 2), 'needs 1.5 bytes'],
    ['offsets backwards', handmade(`{"a":${f32(4, 0, [0])}}`, 4), 'its data_offsets are [4,0]'],
    ['an unknown dtype', handmade('{"a":{"dtype":"toString","shape":[],"data_offsets":[0,4]}}', 4), 'its dtype is'],
    ['metadata of numbers', handmade('{"__metadata__":{"step":3}}', 0), 'it is not a string'],
  ])('%s', async (_, bytes, message) => {
    const error = await open(bytes).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(InputError);
    expect((error as Error).message).toContain(message);
    expect((error as InputError).file).toBe('m.safetensors');
  });

  test('a tensor that is not there, and one that is no float', async () => {
    const file = await open(writeSafetensors([{ name: 'ids', dtype: 'I64', shape: [1], data: BigInt64Array.of(7n) }]));
    await expect(file.read('w')).rejects.toThrow('m.safetensors: tensor w: it is not in the file');
    await expect(file.readF32('ids')).rejects.toThrow('its dtype is I64: F64, F32, F16 or BF16');
  });

  const seeds = [
    writeSafetensors([]),
    writeSafetensors(
      [
        { name: 'a', dtype: 'F32', shape: [2, 2], data: Float32Array.of(1, 2, 3, 4) },
        { name: 'b', dtype: 'I64', shape: [1], data: BigInt64Array.of(1n) },
        { name: 'c', dtype: 'BF16', shape: [3], data: Float32Array.of(1, 2, 3) },
      ],
      { format: 'pt' },
    ),
    writeSafetensors([{ name: 'x', dtype: 'U8', shape: [0], data: new Uint8Array(0) }]),
  ];

  test('cut at every byte it is refused', async () => {
    for (const seed of seeds) {
      for (let length = 0; length < seed.length; length++) {
        const gave = await readsOrRefuses(length, () => readEverything(seed.slice(0, length)));
        expect(gave, `cut to ${length} of ${seed.length}`).toBe(false);
      }
    }
  });

  test('2,000 damaged files are read or refused, never worse', async () => {
    const outcomes = await readDamaged(seeds, 2000, readEverything);
    expect(outcomes.refused).toBeGreaterThan(500);
    expect(outcomes.read).toBeGreaterThan(20);
  });
});

const reference = '../shared/reference/llama/expected.safetensors';
test.skipIf(!existsSync(reference))(`reads what PyTorch wrote (${reference}, where it is there)`, async () => {
  const file = await openSafetensors(await nodeFile(reference));
  expect(file.tensors.get('logits')!.dtype).toBe('F32');
  const logits = await file.readF32('logits');
  expect(logits.length).toBe(file.tensors.get('logits')!.shape.reduce((a, b) => a * b, 1));
  expect(logits.every(Number.isFinite)).toBe(true);
});
