import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { encodeGgml, ggmlBytes, type WrittenGgmlType } from './ggml-quantise.ts';
import { ggmlTypes } from './ggml-types.ts';

const TYPES: readonly WrittenGgmlType[] = ['F32', 'F16', 'Q8_0', 'Q4_0'];

// Six blocks (of usual size, small, below f16's normals, large, zero, below f16) and what the Python package `gguf` 0.19 (by
// llama.cpp's authors) makes of them.
const fixture = JSON.parse(readFileSync(new URL('ggml-quantise.fixture.json', import.meta.url), 'utf8')) as Record<
  string,
  string
>;
const bytesOf = (name: string) => Uint8Array.from(Buffer.from(fixture[name]!, 'base64'));

test.each(['F16', 'Q8_0', 'Q4_0'] as const)('%s is byte for byte what gguf-py writes', (type) => {
  const values = new Float32Array(bytesOf('values').buffer);
  expect(encodeGgml(type, values)).toEqual(bytesOf(type));
});

const block = fc.array(fc.double({ min: -1000, max: 1000, noNaN: true }), { minLength: 32, maxLength: 32 });

test.each(TYPES)('%s read again is as near as its step allows', (name) => {
  const type = [...ggmlTypes.values()].find((one) => one.name === name)!;
  fc.assert(
    fc.property(block, (numbers) => {
      const values = Float32Array.from(numbers);
      const bytes = encodeGgml(name, values);
      expect(bytes.length).toBe(ggmlBytes(name, 32));
      const read = type.dequantise!(bytes);
      const most = Math.max(...values.map(Math.abs));
      // half a step (a whole one where the far end is cut), and the scale rounded to an f16
      const step = { F32: 0, F16: most * 2 ** -11, Q8_0: most / 254, Q4_0: most / 8 }[name];
      const bound = name === 'F32' ? 0 : step + most * 2 ** -10 + 2 ** -17;
      values.forEach((value, i) => expect(Math.abs(read[i]! - value)).toBeLessThanOrEqual(bound));
    }),
  );
});
