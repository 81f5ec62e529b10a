import { existsSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { nodeFile, nodeFolder } from '../cli/node-files.ts';
import { philox } from '../engine/ops/philox.ts';
import { testDevice } from '../engine/testing.ts';
import { openSafetensors } from '../formats/safetensors.ts';
import type { TensorFile } from '../formats/tensor-file.ts';
import type { ModelOptions } from './architectures/index.ts';
import { tinyEncoderFolder, type TinyEncoder } from './architectures/tiny-encoder.testing.ts';
import { compress, type Compression } from './compress.ts';
import { encodedSequences } from './encoder-outputs.ts';
import type { EncoderOptions } from './encoder.ts';
import { measureImportance, type Importance } from './importance.ts';
import { sequenceLogits } from './logits.ts';
import { baseParameters, openAnyModel, openModel, type Model } from './model.ts';
import { loadParameters } from './on-device.ts';

const shared = '../shared/reference';
const there = existsSync(`${shared}/llama`);
if (!there) console.warn(`skipped: there is no ${shared}/llama`);

async function firstRow(name: string): Promise<number[]> {
  const inputs = await openSafetensors(await nodeFile(`${shared}/${name}/inputs.safetensors`));
  const [, tokens] = inputs.tensors.get('input_ids')!.shape as [number, number];
  return Array.from((await inputs.read('input_ids')) as BigInt64Array, Number).slice(0, tokens);
}

/** The model with some weights changed; `at` is given every place of a tensor. */
function changed<Options extends ModelOptions>(
  model: Model<Options>,
  change: (name: string, data: Float32Array, shape: readonly number[]) => void,
): Model<Options> {
  const weights: TensorFile = {
    ...model.weights,
    async readF32(name) {
      const data = await model.weights.readF32(name);
      change(name, data, model.weights.tensors.get(name)!.shape);
      return data;
    },
  };
  return { ...model, weights };
}

async function measured(model: Model, ids: number[]): Promise<Importance> {
  const device = await testDevice();
  return measureImportance(device, model.options, await loadParameters(device, model), [{ input_ids: ids }]);
}

async function logitsOf(model: Model, ids: number[]): Promise<Float32Array> {
  const device = await testDevice();
  return (await sequenceLogits(device, model.options, await loadParameters(device, model), [ids]))[0]!.logits;
}

const cut = (model: Model, choice: Omit<Compression, 'init'>, importance?: Importance): Model =>
  compress(model, { ...choice, init: 'importance' }, 1, 'r.json', importance);

function largestDifference(got: Float32Array, wanted: Float32Array): number {
  expect(got.length).toBe(wanted.length);
  const largest = wanted.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  return got.reduce((most, value, i) => Math.max(most, Math.abs(value - wanted[i]!)), 0) / largest;
}

describe.skipIf(!there)('importance', () => {
  it('a layer’s is the angle between PyTorch’s hidden states before and after it', async () => {
    const model = await openModel(nodeFolder(`${shared}/llama`));
    const ids = await firstRow('llama');
    const { layers } = await measured(model, ids);
    const expected = await openSafetensors(await nodeFile(`${shared}/llama/expected.safetensors`));
    const H = model.options.hidden_size;
    // the last of PyTorch's hidden states is after the final norm: it is not what the last layer gives
    for (const layer of [0, 1]) {
      const [before, after] = [
        await expected.readF32(`hidden.${layer}`),
        await expected.readF32(`hidden.${layer + 1}`),
      ];
      const angles = ids.map((_, t) => {
        let [dot, a, b] = [0, 0, 0];
        for (let c = t * H; c < (t + 1) * H; c++) {
          dot += before[c]! * after[c]!;
          a += before[c]! ** 2;
          b += after[c]! ** 2;
        }
        return Math.acos(dot / Math.sqrt(a * b)) / Math.PI;
      });
      expect(layers[layer]).toBeCloseTo(angles.reduce((x, y) => x + y) / ids.length, 5);
    }
  });

  it('a layer that adds nothing is the first to go', async () => {
    const model = changed(await openModel(nodeFolder(`${shared}/llama`)), (name, data) => {
      if (/layers\.1\..*(o_proj|down_proj)\.weight/.test(name)) data.fill(0);
    });
    const ids = await firstRow('llama');
    const importance = await measured(model, ids);
    // acos of a cosine that f32 rounds below 1
    expect(importance.layers[1]).toBeLessThan(1e-3);
    const smaller = cut(model, { num_hidden_layers: 2 }, importance);
    expect(largestDifference(await logitsOf(smaller, ids), await logitsOf(model, ids))).toBeLessThan(1e-6);
  });

  it('a cut that takes only what is silent changes nothing, whatever shares it', async () => {
    const whole = await openModel(nodeFolder(`${shared}/llama`));
    const { head_dim: D, num_attention_heads: heads, num_key_value_heads: kv } = whole.options;
    // silent: every third channel of the stream, odd channels of the MLP, all heads of one key-value head (another in each
    // layer)
    const model = changed(whole, (name, data, shape) => {
      const columns = shape[1] ?? 1;
      const layer = Number(/layers\.(\d+)\./.exec(name)?.[1] ?? 0);
      data.forEach((_, i) => {
        const [row, column] = [Math.floor(i / columns), i % columns];
        const gone =
          (/embed_tokens/.test(name) && column % 3 === 1) ||
          (/(o_proj|down_proj)/.test(name) && row % 3 === 1) ||
          (/gate_proj/.test(name) && row % 2 === 1) ||
          (/v_proj/.test(name) && Math.floor(row / D) === layer % kv);
        if (gone) data[i] = 0;
      });
    });
    const ids = await firstRow('llama');
    const importance = await measured(model, ids);
    const smaller = cut(
      model,
      {
        hidden_size: Math.ceil((whole.options.hidden_size * 2) / 3),
        intermediate_size: whole.options.intermediate_size / 2,
        num_attention_heads: heads - heads / kv,
        num_key_value_heads: kv - 1,
      },
      importance,
    );
    expect(smaller.config.head_dim).toBe(D);
    expect(smaller.parameters.get('model.layers.0.mlp.down_proj.weight')).toEqual([
      smaller.options.hidden_size,
      smaller.options.intermediate_size,
    ]);
    for (const [name, shape] of smaller.parameters)
      expect(smaller.weights.tensors.get(name)!.shape, name).toEqual(shape);
    // the norms' gains are set by means that were summed in f32
    expect(largestDifference(await logitsOf(smaller, ids), await logitsOf(model, ids))).toBeLessThan(1e-5);
  });

  it('query heads go by themselves where a key-value head keeps fewer', async () => {
    const whole = await openModel(nodeFolder(`${shared}/llama`));
    const { head_dim: D, num_attention_heads: heads, num_key_value_heads: kv } = whole.options;
    const group = heads / kv;
    // the last query head of each group says nothing
    const model = changed(whole, (name, data, shape) => {
      if (!/o_proj/.test(name)) return;
      data.forEach((_, i) => {
        if (Math.floor((i % shape[1]!) / D) % group === group - 1) data[i] = 0;
      });
    });
    const ids = await firstRow('llama');
    const importance = await measured(model, ids);
    // what a head puts out is measured before o_proj: here the test says which are large
    const told = importance.heads.map((of) => of.map((_, head) => (head % group === group - 1 ? 0 : 1)));
    const smaller = cut(model, { num_attention_heads: heads - kv }, { ...importance, heads: told });
    expect(largestDifference(await logitsOf(smaller, ids), await logitsOf(model, ids))).toBeLessThan(1e-6);
  });

  it('has the same shapes before anything is measured, for the plan', async () => {
    const model = await openModel(nodeFolder(`${shared}/llama`));
    const choice = { num_hidden_layers: 2, hidden_size: 32, intermediate_size: 40 };
    const importance = await measured(model, await firstRow('llama'));
    const planned = cut(model, choice);
    expect(planned.parameters).toEqual(cut(model, choice, importance).parameters);
    expect(planned.parameters.get('model.norm.weight')).toEqual([32]);
  });

  it.each([
    [{ hidden_size: 1000 }, "student.compress.hidden_size: 1000 of 48 can't be kept: 1 to 48"],
    [{ num_key_value_heads: 1 }, 'student.compress.num_attention_heads: '],
    [{ num_hidden_layers: 9 }, 'student.compress.num_hidden_layers: 9 of 3'],
  ])('refuses %j', async (choice, message) => {
    const model = await openModel(nodeFolder(`${shared}/llama`));
    expect(() => cut(model, choice)).toThrow(message);
  });

  it('other beginnings say which layers stay, and refuse to cut channels', async () => {
    const model = await openModel(nodeFolder(`${shared}/llama`));
    expect(() => compress(model, { hidden_size: 24, init: 'even' }, 1, 'r.json')).toThrow(
      'r.json: student.compress.hidden_size: init "even" says which layers stay and not which channels: init: "importance" or "scratch"',
    );
  });
});

describe.skipIf(!existsSync(`${shared}/gpt2`))('importance of GPT-2', () => {
  it('cuts q, k and v that lie in one projection, heads with their keys', async () => {
    const whole = await openModel(nodeFolder(`${shared}/gpt2`));
    const { head_dim: D, num_attention_heads: heads, hidden_size: H } = whole.options;
    const quiet = heads - 1;
    const model = changed(whole, (name, data, shape) => {
      // Conv1D [in, out]: the columns of the last head's values
      if (!/c_attn/.test(name)) return;
      const columns = shape.at(-1)!;
      data.forEach((_, i) => {
        const column = (i % columns) - 2 * H;
        if (column >= 0 && Math.floor(column / D) === quiet) data[i] = 0;
      });
    });
    const ids = await firstRow('gpt2');
    const importance = await measured(model, ids);
    const intermediate_size = whole.options.intermediate_size - 16;
    const smaller = cut(model, { intermediate_size }, importance);
    expect(smaller.parameters.get('transformer.h.0.mlp.c_proj.weight')).toEqual([intermediate_size, H]);
    for (const of of importance.heads) expect(of[quiet]).toBe(0);
    await expect(async () => cut(model, { num_attention_heads: quiet }, importance)).rejects.toThrow(
      'a divisor of the hidden size',
    );
    const both = cut(model, { num_attention_heads: quiet, hidden_size: quiet * D }, importance);
    expect(both.weights.tensors.get('transformer.h.0.attn.c_attn.weight')!.shape).toEqual([quiet * D, 3 * quiet * D]);
    expect((await both.weights.readF32('transformer.h.0.attn.c_attn.bias')).length).toBe(3 * quiet * D);
  });
});

describe('importance of an encoder', () => {
  const IDS = [2, 9, 14, 30, 7, 21, 11, 3];
  const encoded = async (model: Model<EncoderOptions>): Promise<Float32Array> => {
    const device = await testDevice();
    return (await encodedSequences(device, model.options, await loadParameters(device, model), [IDS]))[0]!.logits;
  };
  const measuredOf = async (model: Model<EncoderOptions>): Promise<Importance> => {
    const device = await testDevice();
    const samples = [IDS, IDS.slice(0, 4)].map((input_ids) => ({ input_ids }));
    return measureImportance(device, model.options, await loadParameters(device, model), samples);
  };
  const opened = async (name: TinyEncoder): Promise<Model<EncoderOptions>> =>
    (await openAnyModel(await tinyEncoderFolder(name))) as Model<EncoderOptions>;

  it.each(['bert', 'distilbert'] as const)('%s: silent channels of the MLP go, and nothing changes', async (name) => {
    const whole = await opened(name);
    const { names, intermediate_size, num_hidden_layers } = whole.options;
    const quiet = new Set([1, 5, 6, 13]);
    const model = changed(whole, (weight, data, shape) => {
      if (!weight.includes(`.${names.up}.`)) return;
      const width = shape[1] ?? 1;
      data.forEach((_, i) => {
        if (quiet.has(Math.floor(i / width))) data[i] = 0;
      });
    });
    const importance = await measuredOf(model);
    for (const of of importance.intermediate) for (const channel of quiet) expect(of[channel]).toBe(0);
    const choice = { intermediate_size: intermediate_size - quiet.size, init: 'importance' } as const;
    const smaller = compress(model, choice, 1, 'r.json', importance);
    expect(largestDifference(await encoded(smaller), await encoded(model))).toBeLessThan(1e-6);
    expect(importance.layers).toHaveLength(num_hidden_layers);
    for (const angle of importance.layers) expect(angle).toBeGreaterThan(0.01);
  });

  it.each(['bert', 'distilbert'] as const)('%s: a layer counts by the loss without it', async (name) => {
    const model = await opened(name);
    const device = await testDevice();
    const { num_hidden_layers, vocab_size } = model.options;
    const labels = IDS.map((_, t) => (t % 3 === 1 ? 5 + t : -100));
    const lossOf = async (layers: readonly number[]): Promise<number> => {
      const logits = await encoded(compress(model, { layers, init: 'even' }, 1, 'r.json'));
      return labels.reduce((sum, label, t) => {
        if (label === -100) return sum;
        const z = Array.from(logits.subarray(t * vocab_size, (t + 1) * vocab_size));
        return sum + Math.log(z.reduce((all, one) => all + Math.exp(one), 0)) - z[label]!;
      }, 0);
    };
    const all = Array.from({ length: num_hidden_layers }, (_, i) => i);
    const tensors = await loadParameters(device, model);
    const { layers } = await measureImportance(device, model.options, tensors, [{ input_ids: IDS, labels }]);
    expect(layers).toHaveLength(num_hidden_layers);
    for (const gone of all) expect(layers[gone]).toBeCloseTo(await lossOf(all.filter((i) => i !== gone)), 4);
    expect(new Set(layers).size).toBe(num_hidden_layers);
  });

  /**
   * Every `period`-th channel is silent: of the stream, so that what stays has the mean of all, and within each head; the
   * numbers of whole heads where `heads` says so. The transform's activations can't have a mean of zero: there the silent
   * ones repeat what others say, before their gain makes them silent.
   */
  function silenced(whole: Model<EncoderOptions>, period: number, headsToo: boolean): Model<EncoderOptions> {
    const { names, hidden_size: H, num_attention_heads: heads } = whole.options;
    const D = H / heads;
    const isSilent = (channel: number): boolean => channel % period === 1;
    const [query, , value] = names.qkv;
    return changed(whole, (name, data, shape) => {
      const columns = shape[1] ?? 1;
      const layer = Number(/layer\.(\d+)\./.exec(name)?.[1] ?? 0);
      const of = (module: string): boolean => name.includes(`.${module}.`);
      const isNorm = [`${names.embeddings}.LayerNorm`, names.attention_norm, names.mlp_norm].some(
        (path) => name.startsWith(`${path}.`) || name.includes(`.${path}.`),
      );
      // channels of the stream run along the table's columns, and along the rows of what is added to it
      const along = name.startsWith(`${names.embeddings}.`) && !isNorm ? 'columns' : 'rows';
      if (along === 'columns' || isNorm || of(names.attention_output) || of(names.down)) {
        const stride = along === 'columns' ? 1 : columns;
        const lines = data.length / H;
        for (let line = 0; line < lines; line++) {
          const at = (c: number): number => (along === 'columns' ? line * H : line) + c * stride;
          const stay = Array.from({ length: H }, (_, c) => c).filter((c) => !isSilent(c));
          const mean = stay.reduce((sum, c) => sum + data[at(c)]!, 0) / stay.length;
          for (let c = 0; c < H; c++) {
            if (isSilent(c)) data[at(c)] = 0;
            else data[at(c)] = isNorm && name.endsWith('.weight') ? mean : data[at(c)]! - mean;
          }
        }
      }
      if (name.startsWith(`${names.head_transform}.`)) {
        const whole = data.slice();
        data.forEach((_, i) => {
          const row = Math.floor(i / columns);
          data[i] = whole[(row - (row % period)) * columns + (i % columns)]!;
        });
      }
      if (name.startsWith(`${names.head_norm}.`)) {
        data.forEach((_, c) => {
          if (isSilent(c)) data[c] = 0;
        });
      }
      if (of(query) || of(value)) {
        data.forEach((_, i) => {
          const row = Math.floor(i / columns);
          const gone = headsToo ? of(value) && Math.floor(row / D) === layer % heads : row % period === 1;
          if (gone) data[i] = 0;
        });
      }
    });
  }

  /** The same numbers with a head of its own. */
  function untied(model: Model<EncoderOptions>): Model<EncoderOptions> {
    const { names } = model.options;
    const table = `${names.embeddings}.word_embeddings.weight`;
    const source = (name: string): string =>
      ({ [`${names.head}.weight`]: table, [`${names.head}.bias`]: names.tied_bias })[name] ?? name;
    const options = { ...model.options, tie_word_embeddings: false };
    const parameters = baseParameters(options);
    const tensors = new Map([...parameters.keys()].map((name) => [name, model.weights.tensors.get(source(name))!]));
    const readF32 = (name: string) => model.weights.readF32(source(name));
    const config = { ...model.config, tie_word_embeddings: false };
    return { ...model, config, options, parameters, weights: { ...model.weights, tensors, readF32 } };
  }

  it.each([
    ['bert', 'fewer heads', true],
    ['bert', 'fewer heads', false],
    ['bert', 'narrower heads', true],
    ['distilbert', 'fewer heads', true],
    ['distilbert', 'narrower heads', true],
  ] as const)('%s of %s, its head tied: %s: a cut of what is silent changes nothing', async (name, how, tied) => {
    const given = await opened(name);
    const { hidden_size: H, num_attention_heads: heads } = given.options;
    expect([H, heads]).toEqual([12, 3]);
    const fewer = how === 'fewer heads';
    const model = silenced(tied ? given : untied(given), fewer ? 3 : 4, fewer);
    const choice = fewer ? { hidden_size: 8, num_attention_heads: 2 } : { hidden_size: 9 };
    const smaller = compress(model, { ...choice, init: 'importance' }, 1, 'r.json', await measuredOf(model));
    for (const [weight, shape] of smaller.parameters)
      expect(smaller.weights.tensors.get(weight)!.shape, weight).toEqual(shape);
    const [got, wanted] = [await encoded(smaller), await encoded(model)];
    expect(new Set(wanted).size).toBeGreaterThan(100);
    // the norms' gains are set by means that were summed in f32
    expect(largestDifference(got, wanted)).toBeLessThan(1e-5);
  });

  it('a cut to the same size is the model itself', async () => {
    const whole = await opened('bert');
    const { hidden_size, num_hidden_layers, intermediate_size, num_attention_heads } = whole.options;
    const sizes = { hidden_size, num_hidden_layers, intermediate_size, num_attention_heads };
    const same = compress(whole, { ...sizes, init: 'importance' }, 1, 'r.json', await measuredOf(whole));
    for (const name of whole.parameters.keys())
      expect(await same.weights.readF32(name), name).toEqual(await whole.weights.readF32(name));
  });

  it('loses less by importance than by chance', async () => {
    const whole = await opened('bert');
    const importance = await measuredOf(whole);
    const wanted = await encoded(whole);
    const lost = async (told: Importance): Promise<number> => {
      const choice = { hidden_size: 9, intermediate_size: 12, init: 'importance' } as const;
      const got = await encoded(compress(whole, choice, 1, 'r.json', told));
      return Math.sqrt(got.reduce((sum, value, i) => sum + (value - wanted[i]!) ** 2, 0));
    };
    const shuffled = (seed: number): Importance => {
      let draw = 0;
      const drawn = (of: readonly number[]): number[] => of.map(() => philox([draw++, 0, 0, 0], [seed, 0])[0]!);
      const { norms, intermediate, heads, values, queries } = importance;
      return {
        ...importance,
        norms: Object.fromEntries(Object.entries(norms).map(([path, of]) => [path, drawn(of)])),
        intermediate: intermediate.map(drawn),
        heads: heads.map(drawn),
        values: values.map(drawn),
        queries: queries!.map(drawn),
      };
    };
    const chances = [];
    for (let seed = 0; seed < 12; seed++) chances.push(await lost(shuffled(seed)));

    expect(await lost(importance)).toBeLessThan(Math.min(...chances));
  });

  it('cuts heads with the channels that they fill, all weights alike', async () => {
    const whole = await opened('bert');
    const choice = { hidden_size: 8, num_attention_heads: 2, num_hidden_layers: 1, init: 'importance' } as const;
    const smaller = compress(whole, choice, 1, 'r.json', await measuredOf(whole));
    for (const [name, shape] of smaller.parameters) {
      expect(smaller.weights.tensors.get(name)!.shape, name).toEqual(shape);
      const size = (shape as number[]).reduce((a, b) => a * b, 1);
      expect((await smaller.weights.readF32(name)).length, name).toBe(size);
    }
    expect(smaller.config).toMatchObject({ hidden_size: 8, num_attention_heads: 2, num_hidden_layers: 1 });
    expect(smaller.parameters.get('bert.encoder.layer.0.attention.self.query.weight')).toEqual([8, 8]);
    expect((await encoded(smaller)).every(Number.isFinite)).toBe(true);
    expect(() => compress(whole, { ...choice, hidden_size: 10 }, 1, 'r.json')).toThrow(
      "student.compress.hidden_size: heads of 5 can't be cut out of heads of 4: at most 4 a head",
    );
    expect(() => compress(whole, { num_key_value_heads: 1, init: 'scratch' }, 1, 'r.json')).toThrow(
      'student.compress.num_key_value_heads',
    );
  });

  it.each(['bert', 'distilbert'] as const)('%s: keeps layers as they are, or starts at random', async (name) => {
    const whole = await opened(name);
    const { names } = whole.options;
    const last = compress(whole, { layers: [1], init: 'even' }, 1, 'r.json');
    const of = (layer: number) => `${names.layers}.${layer}.${names.down}.weight`;
    expect(await last.weights.readF32(of(0))).toEqual(await whole.weights.readF32(of(1)));
    const sizes = { num_hidden_layers: 4, hidden_size: 24, num_attention_heads: 12, intermediate_size: 30 };
    const random = compress(whole, { ...sizes, init: 'scratch' }, 1, 'r.json');
    expect(random.options).toMatchObject(sizes);
    expect((await random.weights.readF32(of(3))).length).toBe(24 * 30);
  });
});
