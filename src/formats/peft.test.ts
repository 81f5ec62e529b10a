import { existsSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { nodeFolder } from '../cli/node-files.ts';
import { MemorySource, type FileSource } from './byte-source.ts';
import { InputError } from './input-error.ts';
import { readDamaged } from './mutation.testing.ts';
import { rankOf, scalingOf, targets } from './peft-modules.ts';
import { adapterConfig, parseAdapterConfig, readAdapter, writeAdapter, type AdapterTensor } from './peft.ts';

type Bytes = Uint8Array<ArrayBuffer>;

function folder(files: { path: string; bytes: Bytes }[]): FileSource {
  const byPath = new Map(files.map(({ path, bytes }) => [path, bytes]));
  return {
    name: 'adapter',
    async open(path) {
      const bytes = byPath.get(path);
      return bytes && new MemorySource(`adapter/${path}`, bytes);
    },
  };
}

const tensor = (shape: number[], from = 0): AdapterTensor => ({
  shape,
  data: Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => from + i / 8),
});

const pair = (path: string, r: number, width = 6) =>
  [
    [`${path}.lora_A.weight`, tensor([r, width])],
    [`${path}.lora_B.weight`, tensor([4, r])],
  ] as const;

describe('round trip', () => {
  test('config and tensors come back; names in the file are PEFT’s', async () => {
    const config = adapterConfig({
      target_modules: ['q_proj', 'v_proj'],
      r: 2,
      lora_alpha: 16,
      use_dora: true,
      task_type: 'CAUSAL_LM',
      rank_pattern: { v_proj: 3 },
      layers_to_transform: [0],
      modules_to_save: ['lm_head'],
    });
    const tensors = new Map([
      ...pair('model.layers.0.self_attn.q_proj', 2),
      ...pair('model.layers.0.self_attn.v_proj', 3),
      ['model.layers.0.self_attn.q_proj.lora_magnitude_vector.weight', tensor([4])],
      ['lm_head.weight', tensor([5, 6])],
      ['model.layers.0.self_attn.q_proj.bias', tensor([4])],
      ['model.layers.0.self_attn.k_proj.bias', tensor([4])],
    ]);
    const files = writeAdapter(config, tensors);
    expect(files.map((file) => file.path)).toEqual(['adapter_config.json', 'adapter_model.safetensors']);
    const text = new TextDecoder().decode(files[1]!.bytes);
    expect(text).toContain('"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"');
    expect(text).toContain('"base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector"');
    expect(text).toContain('"base_model.model.model.layers.0.self_attn.q_proj.base_layer.bias"');
    expect(text).toContain('"base_model.model.model.layers.0.self_attn.k_proj.bias"');
    const back = await readAdapter(folder(files));
    expect(back.config).toEqual(config);
    expect(new Map([...back.tensors].sort())).toEqual(new Map([...tensors].sort()));
  });

  test('any config comes back', () => {
    const names = fc.array(fc.stringMatching(/^[a-z_]{1,8}$/), { minLength: 1 });
    const configs = fc.record({
      target_modules: fc.oneof(names, fc.constant('all-linear'), fc.constant('.*\\.(q|v)_proj')),
      r: fc.integer({ min: 1, max: 512 }),
      lora_alpha: fc.double({ min: 0.1, max: 100, noNaN: true }),
      lora_dropout: fc.double({ min: 0, max: 0.9, noNaN: true }),
      bias: fc.constantFrom('none' as const, 'all' as const, 'lora_only' as const),
      use_rslora: fc.boolean(),
      use_dora: fc.boolean(),
      fan_in_fan_out: fc.boolean(),
      modules_to_save: fc.option(names),
      exclude_modules: fc.option(names),
      alpha_pattern: fc.dictionary(fc.stringMatching(/^[a-z_]{1,8}$/), fc.integer({ min: 1, max: 64 })),
      init_lora_weights: fc.oneof(fc.boolean(), fc.constant('gaussian')),
      trainable_token_indices: fc.constantFrom(null, [3, 4], { embed_tokens: [3], lm_head: [3] }),
      lora_bias: fc.boolean(),
      others: fc.constantFrom({}, { use_bdlora: true }, { use_qalora: true }),
    });
    fc.assert(
      fc.property(configs, (given) => {
        const config = adapterConfig(given);
        const json = JSON.parse(new TextDecoder().decode(writeAdapter(config, new Map())[0]!.bytes)) as object;
        expect(parseAdapterConfig({ ...json }, 'f')).toEqual(config);
      }),
    );
  });
});

describe('which modules, which rank, which scale', () => {
  const q = 'model.layers.3.self_attn.q_proj';
  const config = adapterConfig({ target_modules: ['q_proj', 'mlp.down_proj'], r: 4, lora_alpha: 8 });
  test.each([
    [config, q, true],
    [config, 'model.layers.3.mlp.down_proj', true],
    [config, 'model.layers.3.self_attn.xq_proj', false],
    [{ ...config, target_modules: '.*\\.(q|v)_proj' }, q, true],
    [{ ...config, target_modules: 'layers.*q_proj' }, q, false], // the whole path must match
    [{ ...config, target_modules: 'all-linear' }, q, true],
    [{ ...config, exclude_modules: ['q_proj'] }, q, false],
    [{ ...config, layers_to_transform: [3] }, q, true],
    [{ ...config, layers_to_transform: [30] }, q, false],
    [{ ...config, layers_to_transform: [3], layers_pattern: ['blocks'] }, q, false],
  ])('%#', (config, path, expected) => {
    expect(targets(config, path, 'f')).toBe(expected);
  });

  test('patterns give a module its own rank and alpha; rslora divides by the root', () => {
    const patterned = { ...config, rank_pattern: { 'layers\\.3\\..*q_proj': 16 }, alpha_pattern: { q_proj: 32 } };
    expect(rankOf(patterned, q, 'f')).toBe(16);
    expect(rankOf(patterned, 'model.layers.4.self_attn.q_proj', 'f')).toBe(4);
    expect(scalingOf(patterned, q, 'f')).toBe(2);
    expect(scalingOf({ ...patterned, use_rslora: true }, q, 'f')).toBe(8);
    expect(scalingOf(config, q, 'f')).toBe(2);
  });
});

describe('bad adapters', () => {
  const good = { peft_type: 'LORA', target_modules: ['q_proj'], r: 2 };
  test.each([
    [{ ...good, peft_type: 'IA3' }, 'peft_type: it is "IA3": "LORA"'],
    [{}, 'peft_type: it is missing'],
    [{ peft_type: 'LORA' }, 'target_modules: it is missing'],
    [{ ...good, target_modules: [1] }, 'target_modules: it is [1]'],
    [{ ...good, target_modules: '(' }, 'target_modules: "^(?:()$" is not one'],
    [{ ...good, target_modules: '(a|a)*b' }, 'target_modules: its pattern is too complex'],
    [{ ...good, target_modules: '(.*x)+y' }, 'target_modules: its pattern is too complex'],
    [{ ...good, rank_pattern: { '(a+)+$': 3 } }, 'rank_pattern: its pattern is too complex'],
    [{ ...good, r: 0 }, 'r: it is 0: a whole number from 1'],
    [{ ...good, r: '8' }, 'r: it is "8"'],
    [{ ...good, lora_alpha: null, lora_dropout: 1 }, 'lora_dropout: it is 1'],
    [{ ...good, bias: 'some' }, 'bias: it is "some"'],
    [{ ...good, alpha_pattern: { q_proj: '4' } }, 'alpha_pattern: it is {"q_proj":"4"}'],
    [{ ...good, use_dora: 1 }, 'use_dora: it is 1: true or false'],
  ])('config %#', (json, message) => {
    expect(() => parseAdapterConfig(json, 'c.json')).toThrow(InputError);
    expect(() => parseAdapterConfig(json, 'c.json')).toThrow(`c.json: ${message}`);
  });

  test('options that it does not know stay by name, if they could matter', () => {
    const json = {
      ...good,
      use_bdlora: true,
      use_qalora: false,
      layer_replication: null,
      loftq_config: { loftq_bits: 4 },
    };
    expect(parseAdapterConfig(json, 'f').others).toEqual({ use_bdlora: true });
  });

  const config = adapterConfig({ target_modules: ['q_proj'], r: 2 });
  test.each([
    ['half a pair', new Map([['x.lora_A.weight', tensor([2, 6])]]), 'its lora_B is missing'],
    ['another rank', new Map(pair('x', 3)), 'its shape is [3,6]: [r, in] with r 2'],
  ])('%s', async (_, tensors, message) => {
    await expect(readAdapter(folder(writeAdapter(config, tensors)))).rejects.toThrow(message);
  });

  test('a folder without one of the files, and names of others', async () => {
    const [configFile, weights] = writeAdapter(config, new Map(pair('q_proj', 2))) as [
      { path: string; bytes: Bytes },
      { path: string; bytes: Bytes },
    ];
    await expect(readAdapter(folder([weights]))).rejects.toThrow('adapter: it holds no adapter_config.json');
    await expect(readAdapter(folder([configFile]))).rejects.toThrow('adapter: it holds no adapter_model.safetensors');
    const renamed = weights.bytes.slice();
    renamed.set(new TextEncoder().encode('B'), new TextDecoder('latin1').decode(renamed).indexOf('base_model'));
    await expect(readAdapter(folder([configFile, { ...weights, bytes: renamed }]))).rejects.toThrow(
      'its name is not PEFT',
    );
  });

  test('2,000 damaged configs and weights are read or refused, never worse', async () => {
    const seed = adapterConfig({ target_modules: '.*(q|v)_proj', r: 2, rank_pattern: { v_proj: 1 }, others: { x: 1 } });
    const [configFile, weights] = writeAdapter(
      seed,
      new Map([...pair('q_proj', 2, 200), ...pair('v_proj', 1, 200)]),
    ) as [{ path: string; bytes: Bytes }, { path: string; bytes: Bytes }];
    const ofConfig = await readDamaged([configFile.bytes], 1000, (bytes) =>
      readAdapter(folder([{ ...configFile, bytes }, weights])),
    );
    const ofWeights = await readDamaged([weights.bytes], 1000, (bytes) =>
      readAdapter(folder([configFile, { ...weights, bytes }])),
    );
    for (const outcomes of [ofConfig, ofWeights]) {
      expect(outcomes.refused).toBeGreaterThan(300);
      expect(outcomes.read).toBeGreaterThan(5);
    }
  });
});

const reference = '../shared/reference';
test.skipIf(!existsSync(reference))(`reads what PEFT wrote (${reference}, where it is there)`, async () => {
  for (const path of [
    'llama/lora',
    'qwen2/lora',
    'gpt2/lora',
    'bert/lora',
    'distilbert/lora',
    'sft_llama/lora_final',
  ]) {
    const adapter = await readAdapter(nodeFolder(`${reference}/${path}`));
    expect(adapter.config.others, path).toEqual({});
    expect(adapter.tensors.size).toBeGreaterThan(4);
    for (const name of adapter.tensors.keys()) {
      const [, module] = /^(.*)\.lora_[AB]\.weight$/.exec(name) ?? [];
      expect(module !== undefined && targets(adapter.config, module, path), `${path}: ${name}`).toBe(true);
    }
  }
});
