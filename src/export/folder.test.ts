import { describe, expect, it } from 'vitest';
import { configFile, generationFile, tokenizerFiles, type SmallFile } from './folder.ts';
import { textFolder } from './export.testing.ts';
import { licenseOf, modelCard } from './model-card.ts';
import { safetensorsFiles } from './safetensors-files.ts';
import { MemorySource } from '../formats/byte-source.ts';
import { openWeights } from '../formats/weights.ts';
import { collect } from './export-model.ts';

const text = ({ bytes }: SmallFile): string => new TextDecoder().decode(bytes);
const json = (file: SmallFile): Record<string, unknown> => JSON.parse(text(file)) as Record<string, unknown>;

describe('config.json', () => {
  const runtime = (dtypes: Parameters<typeof configFile>[1]['dtypes']): unknown =>
    json(configFile({ model_type: 'llama' }, { dtypes, externalData: {}, cache: true }))['transformers.js_config'];

  it('tells transformers.js what to take where nobody says', () => {
    expect(runtime(['fp32'])).toEqual({ dtype: 'fp32' });
    expect(runtime(['q8'])).toEqual({ dtype: 'q8' });
    expect(runtime(['fp16', 'q8'])).toEqual({
      dtype: 'fp16',
      device_config: { wasm: { dtype: 'q8' } },
      kv_cache_dtype: { fp16: 'float16' },
    });
    expect(runtime([])).toBeUndefined();
  });

  it('keeps the model’s fields and says what its weights are now', () => {
    const written = json(
      configFile(
        { model_type: 'llama', hidden_size: 8, torch_dtype: 'bfloat16', _name_or_path: '/home/me', use_cache: false },
        { dtypes: ['fp32'], externalData: { 'model.onnx': 2 }, cache: true },
      ),
    );
    expect(written).toEqual({
      model_type: 'llama',
      hidden_size: 8,
      torch_dtype: 'float32',
      use_cache: true,
      'transformers.js_config': { dtype: 'fp32', use_external_data_format: { 'model.onnx': 2 } },
    });
  });

  it('writes whole numbers with a point where transformers takes floats only, and others as they are', () => {
    const config = {
      final_logit_softcapping: 30,
      attn_logit_softcapping: null,
      hidden_size: 8,
      rope_parameters: { rope_theta: 10000, factor: 8 },
      rms_norm_eps: 1e-6,
    };
    const file = configFile(config, { dtypes: [], externalData: {}, cache: false });
    for (const line of [
      '"final_logit_softcapping": 30.0,',
      '"attn_logit_softcapping": null,',
      '"hidden_size": 8,',
      '"rope_theta": 10000.0,',
      '"factor": 8.0\n',
      '"rms_norm_eps": 0.000001,',
    ]) {
      expect(text(file)).toContain(line);
    }
    expect(json(file)).toEqual({ ...config, dtype: 'float32' });
  });
});

describe('generation_config.json', () => {
  it('is the model’s own, else what its config says', async () => {
    const own = await generationFile(textFolder({ 'generation_config.json': '{"eos_token_id": 5}' }), {});
    expect(json(own)).toEqual({ eos_token_id: 5 });
    const made = await generationFile(textFolder({}), { eos_token_id: [2, 3], pad_token_id: null });
    expect(json(made)).toEqual({ eos_token_id: [2, 3], _from_model_config: true });
  });
});

describe('tokenizer files', () => {
  it('puts the template where each library looks, whichever way the student brought it', async () => {
    const ways: Record<string, string>[] = [
      { 'chat_template.jinja': 'T', 'tokenizer_config.json': '{"eos_token": "<e>"}' },
      { 'tokenizer_config.json': '{"eos_token": "<e>", "chat_template": "T"}' },
      {
        'tokenizer_config.json':
          '{"eos_token": "<e>", "chat_template": [{"name": "tools", "template": "U"}, {"name": "default", "template": "T"}]}',
      },
    ];
    for (const way of ways) {
      const files = await tokenizerFiles(textFolder({ 'tokenizer.json': '{}', ...way }));
      const by = new Map(files.map((file) => [file.path, file]));
      expect([...by.keys()]).toEqual(['tokenizer.json', 'tokenizer_config.json', 'chat_template.jinja']);
      expect(json(by.get('tokenizer_config.json')!)).toEqual({ eos_token: '<e>', chat_template: 'T' });
      expect(text(by.get('chat_template.jinja')!)).toBe('T');
    }
  });

  it('is nothing where there is no tokenizer', async () => {
    expect(await tokenizerFiles(textFolder({ 'tokenizer_config.json': '{}' }))).toEqual([]);
  });
});

describe('README.md', () => {
  const facts = { title: 'My model', trained: true, distilled: true, parameters: 1_250_000, chat: true };

  it('has the hub’s front matter', () => {
    const card = modelCard(
      {
        ...facts,
        base_model: 'HuggingFaceTB/SmolLM2-135M',
        license: 'apache-2.0',
        datasets: ['openai/gsm8k', './rows.jsonl'],
      },
      [{ path: 'onnx/model.onnx', bytes: 1234567, dtype: 'fp32', max_logit_difference: 3.4e-7, top1_agreement: 1 }],
      ['fp32'],
    );
    expect(card.split('---')[1]).toBe(`
library_name: transformers.js
pipeline_tag: text-generation
license: "apache-2.0"
base_model: HuggingFaceTB/SmolLM2-135M
base_model_relation: finetune
datasets:
- openai/gsm8k
tags:
- onnx
- stillroom
- distillation
`);
    expect(card).toContain(
      '| `onnx/model.onnx` | 1,234,567 | fp32 | exact; the reference of the others | 3.4e-7 | 100.0% |',
    );
    expect(card).toContain('1.3 million parameters');
  });

  it('hands safetensors on to the servers that read a folder, naming what they read', () => {
    const onnx = { path: 'onnx/model.onnx', bytes: 1, dtype: 'fp32' };
    const safetensors = { path: 'model.safetensors', bytes: 1, dtype: 'F32' };
    const card = modelCard(facts, [safetensors], []);
    expect(card).toContain('vllm serve THIS_FOLDER\ntrtllm-serve THIS_FOLDER\n');
    expect(card).toContain('`config.json`, `model.safetensors`, the files of the tokenizer');
    expect(card).toContain('with `--dtype float32`\nit computes as Stillroom did');
    expect(modelCard(facts, [onnx], ['fp32'])).not.toContain('vllm');
    expect(modelCard({ ...facts, task: 'fill-mask' }, [safetensors], [])).not.toContain('vllm');
  });

  it('says nothing of a base that has no name on the hub, and lets no name break the page', () => {
    const card = modelCard({ ...facts, base_model: './my folder', teacher: 'a | b\n# c <script>' }, [], ['fp32']);
    expect(card).not.toContain('base_model');
    expect(card).toContain('It learned from a \\| b # c script.');
    expect(card).toContain('The licence of the base and of the data still applies');
  });

  it('takes the licence from the base’s own card', async () => {
    expect(await licenseOf(textFolder({ 'README.md': '---\nlanguage: en\nlicense: apache-2.0\n---\n# X' }))).toBe(
      'apache-2.0',
    );
    expect(await licenseOf(textFolder({ 'README.md': '# license: mit' }))).toBeUndefined();
    expect(await licenseOf(textFolder({}))).toBeUndefined();
    const noText = new MemorySource('README.md', Uint8Array.of(0x2d, 0x2d, 0x2d, 0xff, 0xfe));
    expect(await licenseOf({ name: 'm', open: async () => noText })).toBeUndefined();
  });
});

describe('safetensors', () => {
  it('is sharded over the limit as transformers does, and reads back the same', async () => {
    const names = ['a', 'b', 'c'];
    const weights = {
      name: 'w',
      tensors: new Map(names.map((name) => [name, { shape: [4, 5] }])),
      readF32: async (name: string) => new Float32Array(20).fill(name.charCodeAt(0)),
    };
    expect(safetensorsFiles(weights, names).map(({ path }) => path)).toEqual(['model.safetensors']);
    const files = safetensorsFiles(weights, names, { shardBytes: 170 });
    expect(files.map(({ path }) => path)).toEqual([
      'model-00001-of-00002.safetensors',
      'model-00002-of-00002.safetensors',
      'model.safetensors.index.json',
    ]);
    const contents = new Map<string, Uint8Array<ArrayBuffer>>();
    for (const { path, bytes, data } of files) {
      const content = data();
      contents.set(path, Uint8Array.from(content instanceof Uint8Array ? content : await collect(content, bytes)));
    }
    const read = await openWeights({
      name: 'folder',
      open: async (path) => (contents.has(path) ? new MemorySource(path, contents.get(path)!) : undefined),
    });
    for (const name of names) expect(await read.readF32(name)).toEqual(await weights.readF32(name));
  });
});
