/** Which dtype holds which weight, and what that loses of real models: the table of docs/kernels.md. */
import { readFileSync } from 'node:fs';
import { beforeAll, describe, expect, it } from 'vitest';
import { realModel } from '../../scripts/real-models.mjs';
import { nodeFolder } from '../cli/node-files.ts';
import { BLOCKS, packedAs, type BlockKind, type BlockSize, type PackedDType } from '../engine/graph/packing.ts';
import { pack, unpack } from '../formats/pack-weights.ts';
import { heldAs } from './held.ts';
import { openAnyModel, openModel, type Model } from './model.ts';

describe('a model held in blocks', () => {
  let model: Model;
  beforeAll(async () => {
    model = await openModel(nodeFolder('public/bundled/arithmetic'));
  });
  const [table, linear, norm] = [
    'model.embed_tokens.weight',
    'model.layers.0.self_attn.q_proj.weight',
    'model.norm.weight',
  ];

  it.each([
    ['f16', undefined, 'f16', 'f16'],
    ['int8', undefined, 'int8', 'int8'],
    ['int8', 64, 'int8_64', 'int8_64'],
    ['uint8', undefined, 'uint8', 'uint8'],
    ['uint8', 32, 'uint8_32', 'uint8_32'],
    ['int4', undefined, 'int4', 'int8'],
    ['int4', 64, 'int4_64', 'int8_64'],
    ['uint4', undefined, 'uint4', 'uint8'],
    ['uint4', 32, 'uint4', 'uint8_32'],
    ['uint4', 64, 'uint4_64', 'uint8'],
    ['nf4', undefined, 'nf4', 'int8'],
    ['nf4', 32, 'nf4_32', 'int8'],
    ['nf4', 64, 'nf4', 'int8_64'],
  ] as const)(
    '%s, %s numbers a block: layers as %s, embedding and head as %s',
    async (kind, block, layers, softmax) => {
      const as = heldAs(model, kind, block, (name) => name.endsWith('v_proj.weight'));
      const held = as.options.held!;
      expect([held.get(linear), held.get(table)]).toEqual([layers, softmax]);
      expect([held.get(norm), held.get('model.layers.0.self_attn.v_proj.weight')]).toEqual([undefined, undefined]);
      const data = await model.weights.readF32(linear);
      expect(await as.weights.readF32(linear)).toEqual(unpack(layers, pack(layers, data), data.length));
    },
  );
});

const table = [
  ...readFileSync('docs/kernels.md', 'utf8').matchAll(/^\| (u?int[48]|nf4) \| (32|64) \| ([\d.]+) \| ([\d.]+) % \|/gm),
].map(([, kind, block, bytes, lost]) => ({
  dtype: packedAs(kind as BlockKind, Number(block) as BlockSize),
  bytes,
  lost,
}));

describe('the table of what packing loses', () => {
  it('has every dtype in blocks, and its bytes', () => {
    expect(new Set(['f16', ...table.map(({ dtype }) => dtype)])).toEqual(new Set(Object.keys(BLOCKS)));
    for (const { dtype, bytes } of table)
      expect(String((4 * BLOCKS[dtype].words) / BLOCKS[dtype].numbers), dtype).toBe(bytes);
  });

  const folder = realModel('minilm');
  it.skipIf(folder === undefined)(
    'is that of all-MiniLM-L6-v2 (skipped without it)',
    { timeout: 300_000 },
    async () => {
      const model = await openAnyModel(nodeFolder(folder!));
      const linear = [...model.parameters].filter(([name, shape]) => shape.length === 2 && !name.includes('embed'));
      const lost = new Map<PackedDType, number>();
      let all = 0;
      for (const [name] of linear) {
        const data = await model.weights.readF32(name);
        for (const value of data) all += value ** 2;
        for (const { dtype } of table) {
          const got = unpack(dtype, pack(dtype, data), data.length);
          const squares = got.reduce((sum, value, i) => sum + (value - data[i]!) ** 2, 0);
          lost.set(dtype, (lost.get(dtype) ?? 0) + squares);
        }
      }
      const percent = table.map(({ dtype }) => [dtype, (100 * Math.sqrt(lost.get(dtype)! / all)).toPrecision(3)]);
      expect(percent).toEqual(table.map((row) => [row.dtype, row.lost]));
    },
  );
});
