import { describe, expect, it } from 'vitest';
import { realModel } from '../../../scripts/real-models.mjs';
import { nodeFolder } from '../../cli/node-files.ts';
import { MemorySource } from '../../formats/byte-source.ts';
import type { FileSource } from '../../formats/byte-source.ts';
import { withTokenizerOfGguf } from '../../formats/gguf-tokenizer.ts';
import { modelFromGguf } from '../../formats/gguf-model.ts';
import { openGguf } from '../../formats/gguf.ts';
import { f16ToF32, f32ToF16 } from '../../formats/half.ts';
import { loadTokenizer, type Tokenizer } from '../../models/tokenizer.ts';
import { openModel, type Model } from '../../models/model.ts';
import { exportModel, type ExportOptions } from '../export-model.ts';
import { fixtureModel, hasReference, MemorySink, ort, referenceModel } from '../export.testing.ts';
import type { SmallFile } from '../folder.ts';
import { ggufShape } from './metadata.ts';
import { modelfile } from './modelfile.ts';
import { ggufTokenizer } from './tokenizer.ts';
import { verifyGguf } from './verify.ts';

async function exported(name: string, options: Partial<ExportOptions> = {}, given?: Model) {
  const sink = new MemorySink();
  const model = given ?? (await referenceModel(name));
  const done = await exportModel({
    model,
    dtypes: [],
    gguf: ['F32', 'F16', 'Q8_0', 'Q4_0'],
    card: { title: 'tiny', distilled: false },
    out: sink,
    ort,
    reference: [],
    ...options,
  });
  const open = async (type: string) => openGguf(await sink.open(`model-${type}.gguf`));
  return { sink, done, model, open };
}

/** A GGUF with nothing beside it. */
const alone = (file: string, folder: Pick<FileSource, 'open'>): FileSource =>
  withTokenizerOfGguf({
    name: file,
    open: async (name) => (name === file ? folder.open(name) : undefined),
    list: async () => [file],
  });

/** Letters, case, digits, blanks, scripts of several bytes, special tokens: where tokenizers differ. */
const TEXTS = [
  'The 3 Quick brown-foxes\n\n  jumped_over 1234567 (x += 0.5);\tnaïve Ärger',
  "don't we'll I'm",
  'Привет мир, 你好世界 🦊',
  '<|im_start|>user\nhi<|im_end|>\n',
];

function sameTokenizer(read: Tokenizer, own: Tokenizer): void {
  for (const text of TEXTS) {
    expect(read.encode(text)).toEqual(own.encode(text));
    expect(read.decode(read.encode(text))).toBe(own.decode(own.encode(text)));
  }
  expect([read.vocab_size, read.bos_token_id, read.eos_token_id]).toEqual([
    own.vocab_size,
    own.bos_token_id,
    own.eos_token_id,
  ]);
  const messages = [
    { role: 'user', content: 'What is 2+2?' },
    { role: 'assistant', content: '4' },
  ];
  expect(read.chat_template!.render(messages)).toBe(own.chat_template!.render(messages));
}

const smollm2 = realModel('smollm2');

it.skipIf(smollm2 === undefined)('the tokenizer of a real GGUF is the one beside it', async () => {
  const file = 'SmolLM2-135M-Instruct.Q4_1.gguf';
  sameTokenizer(await loadTokenizer(alone(file, nodeFolder(smollm2!))), await loadTokenizer(nodeFolder(smollm2!)));
});

it('a tokenizer of another kind is refused by name, none is none', async () => {
  const { sink } = await exported(
    'arithmetic',
    { gguf: ['F32'] },
    await openModel(nodeFolder('public/bundled/arithmetic')),
  );
  await expect(loadTokenizer(alone('model-F32.gguf', sink))).rejects.toThrow(
    'tokenizer.ggml.model: it is "llama": "gpt2"',
  );
  const none = await exported('mistral', { gguf: ['F32'] }, await fixtureModel('mistral'));
  await expect(loadTokenizer(alone('model-F32.gguf', none.sink))).rejects.toThrow('has no tokenizer.json');
});

describe.skipIf(!hasReference('sft_llama'))('GGUF of a llama with tokenizer', () => {
  it('F32 and F16 come back bit for bit, the others within a step', async () => {
    const { done, model, open, sink } = await exported('sft_llama');
    const name = 'model.layers.1.self_attn.q_proj.weight';
    const weight = await model.weights.readF32(name);
    expect(await (await modelFromGguf(await open('F32'))).readF32(name)).toEqual(weight);
    expect(await (await modelFromGguf(await open('F16'))).readF32(name)).toEqual(f16ToF32(f32ToF16(weight)));
    const differences = Object.fromEntries(done.files.map((file) => [file.dtype, file.max_weight_difference!]));
    expect(differences.F32).toBe(0);
    expect(differences.F16).toBeLessThanOrEqual(2 ** -11);
    expect(differences.Q8_0).toBeLessThanOrEqual(0.5 / 127 + 2 ** -11);
    expect(differences.Q4_0).toBeLessThanOrEqual(1 / 8 + 2 ** -11);
    for (const { path, bytes } of done.files) expect(bytes, path).toBe(sink.files.get(path)!.length);
  });

  it('keeps norms in f32 and the embedding of a Q4_0 file in Q8_0', async () => {
    const { tensors } = await (await exported('sft_llama', { gguf: ['Q4_0'] })).open('Q4_0');
    expect(tensors.get('blk.0.attn_norm.weight')!.dtype).toBe('F32');
    expect(tensors.get('token_embd.weight')!.dtype).toBe('Q8_0');
    expect(tensors.get('blk.2.ffn_down.weight')!.dtype).toBe('Q4_0');
  });

  it('says what llama.cpp needs to cut text and to chat', async () => {
    const { open, sink } = await exported('sft_llama', { gguf: ['F16'] });
    const { values } = await open('F16');
    expect(values.get('tokenizer.ggml.model')).toBe('gpt2');
    expect(values.get('tokenizer.ggml.pre')).toBe('gpt-2');
    expect((values.get('tokenizer.ggml.tokens') as string[]).slice(0, 3)).toEqual([
      '<|endoftext|>',
      '<|im_start|>',
      '<|im_end|>',
    ]);
    expect((values.get('tokenizer.ggml.tokens') as string[]).length).toBe(1024);
    expect([...(values.get('tokenizer.ggml.token_type') as Int32Array).subarray(0, 4)]).toEqual([3, 3, 3, 1]);
    expect((values.get('tokenizer.ggml.merges') as string[])[0]).toBe('Ġ t');
    expect(values.get('tokenizer.ggml.eos_token_id')).toBe(2);
    expect(values.get('tokenizer.ggml.add_bos_token')).toBe(false);
    // Jinja elsewhere does not know these tags
    expect(values.get('tokenizer.chat_template')).not.toMatch(/\{%-?\s*generation/);
    expect(values.get('tokenizer.chat_template')).toContain("m['content'] + '<|im_end|>");
    expect(sink.text('Modelfile')).toContain('FROM ./model-F16.gguf\n');
    expect(sink.text('README.md')).toContain('model-F16.gguf');
  });

  it('says a tokenizer that is read again out of the file alone', async () => {
    const { sink, model } = await exported('sft_llama', { gguf: ['F16'] });
    sameTokenizer(await loadTokenizer(alone('model-F16.gguf', sink)), await loadTokenizer(model.folder));
  });

  it('a file that holds another weight is found out', async () => {
    const { sink, model } = await exported('sft_llama', { gguf: ['Q8_0'] });
    const bytes = sink.files.get('model-Q8_0.gguf')!;
    const names = [...model.parameters.keys()];
    const verify = () => verifyGguf(new MemorySource('m.gguf', bytes), model.options, model.weights, names);
    await verify();
    bytes[bytes.length - 300]! ^= 0x40;
    await expect(verify()).rejects.toThrow(/\(Q8_0\) holds .* was written|\(F32\) holds .* was written/);
  });

  it('a file that says another shape is found out', async () => {
    const { sink, model } = await exported('sft_llama', { gguf: ['F16'] });
    const source = await sink.open('model-F16.gguf');
    const other = { ...model.options, norm_eps: 1e-5 };
    await expect(verifyGguf(source, other, model.weights, model.parameters.keys())).rejects.toThrow('it says norm_eps');
  });
});

describe.skipIf(!hasReference('qwen2'))('GGUF without tokenizer', () => {
  it('takes and gives ids; qwen2 keeps its biases and the order of its rows', async () => {
    const { open, model, done } = await exported('qwen2', { gguf: ['F32'] });
    const file = await open('F32');
    expect(file.architecture).toBe('qwen2');
    expect(file.values.get('tokenizer.ggml.model')).toBe('none');
    expect(done.notes.map(({ kind }) => kind)).toEqual(['no-tokenizer']);
    expect(await file.readF32('blk.0.attn_k.bias')).toEqual(
      await model.weights.readF32('model.layers.0.self_attn.k_proj.bias'),
    );
    expect(await file.readF32('blk.0.attn_q.weight')).toEqual(
      await model.weights.readF32('model.layers.0.self_attn.q_proj.weight'),
    );
  });

  it('writes nothing of a model that has no form as GGUF', async () => {
    const model = await referenceModel('qwen2');
    const sink = new MemorySink();
    const odd = { ...model, config: { ...model.config, model_type: 'mamba' } };
    await expect(exported('qwen2', { model: odd, out: sink, dtypes: ['fp32'] })).rejects.toThrow(
      'config.json: model_type: mamba is not written as GGUF: llama, mistral,',
    );
    expect(sink.files.size).toBe(0);
  });
});

describe.skipIf(!hasReference('gpt2'))('GGUF of a GPT-2', () => {
  it('turns Conv1D weights and keeps positions', async () => {
    const { open, model } = await exported('gpt2', { gguf: ['F32'] });
    const file = await open('F32');
    expect(file.tensors.get('blk.0.attn_qkv.weight')!.shape).toEqual([144, 48]);
    expect(await file.readF32('position_embd.weight')).toEqual(await model.weights.readF32('transformer.wpe.weight'));
    expect(file.values.get('gpt2.attention.layer_norm_epsilon')).toBeCloseTo(1e-5, 10);
  });

  it('refuses what llama.cpp would compute differently', async () => {
    const { options, config } = await referenceModel('gpt2');
    const refused = (more: object) => () => ggufShape(config, { ...options, ...more }, 'm');
    expect(refused({ activation: 'gelu' })).toThrow('activation_function');
    expect(refused({ attention_scale: () => 1 })).toThrow('scale_attn_weights');
  });
});

describe.skipIf(!hasReference('llama'))('rotary scaling', () => {
  it('Llama 3’s becomes factors that come back as the same scaling; others have no form', async () => {
    const { options, config } = await referenceModel('llama');
    const scaling = {
      kind: 'llama3',
      factor: 8,
      low_freq_factor: 1,
      high_freq_factor: 4,
      original_max_position_embeddings: 64,
    } as const;
    const shape = ggufShape(config, { ...options, rotary: { ...options.rotary!, scaling } }, 'm');
    const factors = shape.ropeFactors.get('rope_freqs.weight')!;
    expect(factors.at(0)).toBe(1);
    expect(factors.at(-1)).toBe(8);
    const unusual = { ...options.rotary!, scaling: { ...scaling, high_freq_factor: 3 } };
    expect(() => ggufShape(config, { ...options, rotary: unusual }, 'm')).toThrow('has no form in a llama GGUF');
  });
});

describe('GGUF of the decoders’ fixtures', () => {
  /** The reader says the same model with the same weights, or the export throws. */
  async function written(model: Model) {
    const { open } = await exported(model.name, { gguf: ['F32', 'Q8_0'] }, model);
    return open('F32');
  }

  it('mistral and qwen3 come back', async () => {
    expect((await written(await fixtureModel('mistral'))).values.get('llama.attention.sliding_window')).toBe(4);
    const qwen = await written(await fixtureModel('qwen3', { use_sliding_window: false, layer_types: null }));
    expect(qwen.tensors.has('blk.0.attn_q_norm.weight')).toBe(true);
  });

  it('phi3 keeps both lists of longrope, its gain, and a part of a head that is turned', async () => {
    const file = await written(await fixtureModel('phi3'));
    expect([...(await file.readF32('rope_factors_long.weight'))]).toEqual([1.2, 4].map(Math.fround));
    expect([...(await file.readF32('rope_factors_short.weight'))]).toEqual([1, 1.3].map(Math.fround));
    expect(file.values.get('phi3.rope.dimension_count')).toBe(4);
    expect(file.values.get('phi3.rope.scaling.original_context_length')).toBe(8);
    // √(1 + ln 8 / ln 8)
    expect(file.values.get('phi3.rope.scaling.attn_factor')).toBeCloseTo(Math.SQRT2, 6);
    expect(file.tensors.get('blk.0.ffn_up.weight')!.shape).toEqual([32, 16]);
  });

  it('gemma3’s norms lie one higher, and the file is refused where llama.cpp would compute otherwise', async () => {
    const release = { query_pre_attn_scalar: 8, layer_types: ['sliding_attention', 'sliding_attention'] };
    const model = await fixtureModel('gemma3', release);
    const file = await written(model);
    const norm = await model.weights.readF32('model.layers.0.post_feedforward_layernorm.weight');
    expect(await file.readF32('blk.0.post_ffw_norm.weight')).toEqual(norm.map((weight) => weight + 1));
    expect(file.values.get('gemma3.rope.scaling.factor')).toBe(8);
    const refused = async (more: object) => {
      const { config, options } = await fixtureModel('gemma3', { ...release, ...more });
      return () => ggufShape(config, options, 'm');
    };
    expect(await refused({ query_pre_attn_scalar: 10 })).toThrow('query_pre_attn_scalar');
    expect(await refused({ layer_types: ['sliding_attention', 'full_attention'] })).toThrow('layer_types');
    expect(await refused({ hidden_activation: 'gelu' })).toThrow('hidden_activation');
    expect(await refused({ rope_parameters: { sliding_attention: { rope_theta: 5000 } } })).toThrow(
      'rope_local_base_freq',
    );
  });

  it('gemma2 keeps both caps, and is refused where llama.cpp would compute otherwise', async () => {
    const release = { query_pre_attn_scalar: 8 };
    const model = await fixtureModel('gemma2', release);
    const file = await written(model);
    const norm = await model.weights.readF32('model.layers.1.pre_feedforward_layernorm.weight');
    expect(await file.readF32('blk.1.ffn_norm.weight')).toEqual(norm.map((weight) => weight + 1));
    expect(file.values.get('gemma2.attn_logit_softcapping')).toBe(1.5);
    expect(file.values.get('gemma2.final_logit_softcapping')).toBe(6);
    const refused = async (more: object) => {
      const { config, options } = await fixtureModel('gemma2', { ...release, ...more });
      return () => ggufShape(config, options, 'm');
    };
    expect(await refused({ query_pre_attn_scalar: 10 })).toThrow('query_pre_attn_scalar');
    expect(await refused({ layer_types: ['full_attention', 'full_attention'] })).toThrow('layer_types');
    expect(await refused({ attn_logit_softcapping: null })).toThrow('attn_logit_softcapping');
  });

  it('gemma3 keeps the cap of its logits', async () => {
    const release = { query_pre_attn_scalar: 8, layer_types: ['sliding_attention', 'sliding_attention'] };
    const file = await written(await fixtureModel('gemma3-capped', release));
    expect(file.values.get('gemma3.final_logit_softcapping')).toBe(6);
  });

  it('a llama with another activation is refused', async () => {
    const { config, options } = await fixtureModel('mistral', { hidden_act: 'gelu' });
    expect(() => ggufShape(config, options, 'm')).toThrow('config.json: hidden_act');
  });
});

const json = (path: string, value: unknown): SmallFile => ({
  path,
  bytes: new TextEncoder().encode(JSON.stringify(value)),
});
const byteLevel = { type: 'ByteLevel', add_prefix_space: false, use_regex: false };
const split = (Regex: string) => ({ type: 'Split', pattern: { Regex }, behavior: 'Isolated', invert: false });
const LLAMA3 =
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

function tokenizerOf(pre_tokenizer: unknown, model: Record<string, unknown> = {}) {
  const tokenizer = {
    model: { type: 'BPE', vocab: { a: 0, b: 1, ab: 2 }, merges: ['a b'], ...model },
    pre_tokenizer,
    added_tokens: [{ id: 3, content: '<s>', special: true }],
  };
  const made = ggufTokenizer([json('tokenizer.json', tokenizer)], {}, 5);
  return { ...made, values: new Map(made.entries.map(({ key, value }) => [key, value])) };
}

describe('the tokenizer in it', () => {
  it.each([
    ['gpt-2', { ...byteLevel, use_regex: true }, {}],
    [
      'smollm',
      {
        type: 'Sequence',
        pretokenizers: [
          { type: 'Digits', individual_digits: true },
          { ...byteLevel, use_regex: true },
        ],
      },
      {},
    ],
    ['llama-bpe', { type: 'Sequence', pretokenizers: [split(LLAMA3), byteLevel] }, { ignore_merges: true }],
    ['dbrx', { type: 'Sequence', pretokenizers: [split(LLAMA3), byteLevel] }, {}],
    ['qwen2', { type: 'Sequence', pretokenizers: [split(LLAMA3.replace('{1,3}', '')), byteLevel] }, {}],
  ])('cuts text as %s', (name, pre, model) => {
    const { values, trouble } = tokenizerOf(pre, model);
    expect(values.get('tokenizer.ggml.pre')).toBe(name);
    expect(trouble).toBeUndefined();
  });

  it('a rule that llama.cpp does not know is said', () => {
    const { values, trouble } = tokenizerOf({ type: 'Sequence', pretokenizers: [split('\\d'), byteLevel] });
    expect(values.get('tokenizer.ggml.pre')).toBe('default');
    expect(trouble).toContain('a rule of its own');
  });

  it('rows of the embedding that no token has are there by name, unused', () => {
    const { values } = tokenizerOf({ ...byteLevel, use_regex: true });
    expect(values.get('tokenizer.ggml.tokens')).toEqual(['a', 'b', 'ab', '<s>', '[PAD4]']);
    expect(values.get('tokenizer.ggml.token_type')).toEqual([1, 1, 1, 3, 5]);
  });

  it('SentencePiece’s kind merges in the order of its scores', () => {
    const tokenizer = {
      model: {
        type: 'BPE',
        byte_fallback: true,
        unk_token: '<unk>',
        vocab: { '<unk>': 0, '<0x41>': 1, '▁': 2, t: 3, h: 4, th: 5, '▁t': 6, '▁th': 7 },
        merges: [
          ['t', 'h'],
          ['▁', 't'],
          ['▁t', 'h'],
          ['▁', 'th'],
        ],
      },
      normalizer: { type: 'Sequence', normalizers: [{ type: 'Prepend', prepend: '▁' }] },
      added_tokens: [{ id: 0, content: '<unk>', special: true }],
    };
    const made = ggufTokenizer([json('tokenizer.json', tokenizer)], { eos_token_id: [7, 5] }, 8);
    const values = new Map(made.entries.map(({ key, value }) => [key, value]));
    expect(values.get('tokenizer.ggml.model')).toBe('llama');
    expect(values.get('tokenizer.ggml.scores')).toEqual([-4, -4, -4, -4, -4, -0, -1, -2]);
    expect(values.get('tokenizer.ggml.token_type')).toEqual([2, 6, 1, 1, 1, 1, 1, 1]);
    expect(values.get('tokenizer.ggml.add_space_prefix')).toBe(true);
    expect(values.get('tokenizer.ggml.eos_token_id')).toBe(7);
    expect(values.get('tokenizer.ggml.eot_token_id')).toBe(5);
  });
});

describe('Ollama’s Modelfile', () => {
  const of = (chat_template: string, more: object = {}) =>
    modelfile('m.gguf', [json('tokenizer_config.json', { bos_token: '<s>', chat_template, ...more })]);
  const chatml =
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}" +
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

  it('says a template that writes turns in Ollama’s own words', () => {
    expect(of(chatml)).toBe(
      'FROM ./m.gguf\n' +
        'TEMPLATE """{{- range .Messages }}{{ if eq .Role "system" }}<|im_start|>system\n{{ .Content }}<|im_end|>\n' +
        '{{ else if eq .Role "user" }}<|im_start|>user\n{{ .Content }}<|im_end|>\n' +
        '{{ else if eq .Role "assistant" }}<|im_start|>assistant\n{{ .Content }}<|im_end|>\n' +
        '{{ end }}{{ end }}<|im_start|>assistant\n"""\n' +
        'PARAMETER stop "<|im_end|>"\n',
    );
  });

  it('knows what a template says as system by itself', () => {
    const standing = `{% if messages[0].role != 'system' %}{{ '<|im_start|>system\\nBe kind.<|im_end|>\\n' }}{% endif %}`;
    expect(of(standing + chatml)).toContain('SYSTEM """Be kind."""');
  });

  it('leaves the begin of text to Ollama where the tokenizer adds it', () => {
    expect(of(`{{ bos_token }}${chatml}`, { add_bos_token: true })).not.toContain('<s>');
  });

  it('leaves a template that does more to Ollama, and says so', () => {
    const loops = "{% for m in messages %}{{ loop.index ~ m.content }}{% endfor %}{{ 'go' }}";
    expect(of(loops)).toMatch(/^FROM \.\/m\.gguf\n# Its chat template does more/);
  });

  it('is one line where there is no template', () => {
    expect(modelfile('m.gguf', [])).toBe('FROM ./m.gguf\n');
  });
});
