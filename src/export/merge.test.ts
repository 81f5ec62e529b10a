import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { adapterConfig, type Adapter, type AdapterConfig } from '../formats/peft.ts';
import { mergeAdapters, type WeightSource } from './merge.ts';

const floats = (count: number, seed: number): Float32Array<ArrayBuffer> =>
  Float32Array.from({ length: count }, (_, i) => Math.sin(1 + seed * 31 + i * 1.7));

function base(tensors: Record<string, { shape: number[]; data: Float32Array<ArrayBuffer> }>): WeightSource {
  return {
    name: 'base',
    tensors: new Map(Object.entries(tensors)),
    readF32: async (name) => tensors[name]!.data.slice(),
  };
}

function pair(
  path: string,
  [outputs, inputs, r]: [number, number, number],
  given: Partial<AdapterConfig> = {},
): Adapter {
  const tensors: [string, { shape: number[]; data: Float32Array<ArrayBuffer> }][] = [
    [`${path}.lora_A.weight`, { shape: [r, inputs], data: floats(r * inputs, 1) }],
    [`${path}.lora_B.weight`, { shape: [outputs, r], data: floats(outputs * r, 2) }],
  ];
  if (given.use_dora) {
    tensors.push([`${path}.lora_magnitude_vector.weight`, { shape: [outputs], data: floats(outputs, 3) }]);
  }
  return {
    config: adapterConfig({ r, lora_alpha: 12, target_modules: ['q_proj'], ...given }),
    tensors: new Map(tensors),
  };
}

const PATH = 'model.layers.0.self_attn.q_proj';

describe('mergeAdapters', () => {
  it('adds scaling · B·A, however the weight lies and the scale is said', async () => {
    const size = fc.integer({ min: 1, max: 7 });
    await fc.assert(
      fc.asyncProperty(
        size,
        size,
        size,
        fc.boolean(),
        fc.boolean(),
        fc.boolean(),
        async (O, I, r, byInput, rs, pattern) => {
          const adapter = pair(PATH, [O, I, r], {
            use_rslora: rs,
            ...(pattern ? { alpha_pattern: { 'layers.0.self_attn.q_proj': 5 } } : {}),
          });
          const weight = floats(O * I, 4);
          const source = base({ [`${PATH}.weight`]: { shape: byInput ? [I, O] : [O, I], data: weight } });
          const options = { tie_word_embeddings: true, conv1d: byInput };
          const merged = await mergeAdapters(source, [{ name: 'a', adapter }], options).readF32(`${PATH}.weight`);
          const scaling = (pattern ? 5 : 12) / (rs ? Math.sqrt(r) : r);
          const [a, b] = [floats(r * I, 1), floats(O * r, 2)];
          for (let o = 0; o < O; o++) {
            for (let i = 0; i < I; i++) {
              let sum = 0;
              for (let k = 0; k < r; k++) sum += b[o * r + k]! * a[k * I + i]!;
              const at = byInput ? i * O + o : o * I + i;
              expect(merged[at]).toBeCloseTo(weight[at]! + scaling * sum, 5);
            }
          }
        },
      ),
      { numRuns: 60 },
    );
  });

  it('rescales rows to DoRA’s magnitudes', async () => {
    const [O, I] = [3, 4];
    const adapter = pair(PATH, [O, I, 2], { use_dora: true });
    const source = base({ [`${PATH}.weight`]: { shape: [O, I], data: floats(O * I, 4) } });
    const merged = await mergeAdapters(source, [{ name: 'a', adapter }], { tie_word_embeddings: false }).readF32(
      `${PATH}.weight`,
    );
    const magnitudes = floats(O, 3);
    for (let o = 0; o < O; o++) {
      const norm = Math.hypot(...merged.subarray(o * I, (o + 1) * I));
      expect(norm).toBeCloseTo(Math.abs(magnitudes[o]!), 5);
    }
  });

  it('adds the bias of B, scaled, to the base’s or to the one that was saved', async () => {
    const [O, I] = [3, 4];
    const given = pair(PATH, [O, I, 2], { lora_bias: true });
    const data = floats(O, 7);
    const own = floats(O, 8);
    const saved = floats(O, 9);
    const source = base({
      [`${PATH}.weight`]: { shape: [O, I], data: floats(O * I, 4) },
      [`${PATH}.bias`]: { shape: [O], data: own },
    });
    const merged = (more: Adapter['tensors']) => {
      const tensors = new Map([...given.tensors, [`${PATH}.lora_B.bias`, { shape: [O], data }], ...more]);
      const adapter = { ...given, tensors };
      return mergeAdapters(source, [{ name: 'a', adapter }], { tie_word_embeddings: true }).readF32(`${PATH}.bias`);
    };
    // 12 / 2
    expect(await merged(new Map())).toEqual(own.map((value, o) => value + 6 * data[o]!));
    const whole = new Map([[`${PATH}.bias`, { shape: [O], data: saved }]]);
    expect(await merged(whole)).toEqual(saved.map((value, o) => value + 6 * data[o]!));
  });

  it('merges several in their order and takes whole weights that an adapter saved', async () => {
    const saved = floats(2, 9);
    const whole: Adapter = {
      config: adapterConfig({ target_modules: ['q_proj'], modules_to_save: ['norm'] }),
      tensors: new Map([['model.norm.weight', { shape: [2], data: saved }]]),
    };
    const source = base({
      [`${PATH}.weight`]: { shape: [2, 2], data: new Float32Array(4) },
      'model.norm.weight': { shape: [2], data: new Float32Array(2) },
    });
    const one = pair(PATH, [2, 2, 1]);
    const merged = mergeAdapters(
      source,
      [one, one, whole].map((adapter) => ({ name: 'a', adapter })),
      { tie_word_embeddings: true },
    );
    const single = mergeAdapters(source, [{ name: 'a', adapter: one }], { tie_word_embeddings: true });
    const twice = (await single.readF32(`${PATH}.weight`)).map((value) => 2 * value);
    expect(await merged.readF32(`${PATH}.weight`)).toEqual(twice);
    expect(await merged.readF32('model.norm.weight')).toEqual(saved);
  });

  const tied = base({
    'model.embed_tokens.weight': { shape: [4, 2], data: floats(8, 5) },
    [`${PATH}.weight`]: { shape: [2, 2], data: floats(4, 6) },
  });
  const refused: [string, Adapter, string][] = [
    [
      'a tied head',
      pair('lm_head', [4, 2, 1]),
      'tensor lm_head.lora_A.weight: the head shares its weight with the embedding',
    ],
    [
      'a tied embedding',
      pair('model.embed_tokens', [4, 2, 1]),
      'tensor model.embed_tokens.lora_A.weight: the embedding is the head too',
    ],
    [
      'a module that is not there',
      pair('model.x', [2, 2, 1]),
      'tensor model.x.lora_A.weight: the base has no model.x.weight',
    ],
    [
      'another size',
      pair(PATH, [2, 3, 1]),
      'it fits a weight of [2,3], and model.layers.0.self_attn.q_proj.weight is [2,2]',
    ],
  ];
  const lifted = pair(PATH, [2, 2, 1], { lora_bias: true });
  refused.push([
    'a bias of B where the base has none',
    { ...lifted, tensors: new Map([...lifted.tensors, [`${PATH}.lora_B.bias`, { shape: [2], data: floats(2, 7) }]]) },
    `its lora_B has a bias, and the base has no ${PATH}.bias`,
  ]);
  for (const [what, adapter, words] of refused) {
    it(`refuses ${what}`, () => {
      expect(() => mergeAdapters(tied, [{ name: 'a', adapter }], { tie_word_embeddings: true })).toThrow(words);
    });
  }
});
