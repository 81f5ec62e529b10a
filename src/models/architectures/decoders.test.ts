/**
 * Each decoder against PyTorch: a tiny random model, its logits, hidden states, loss and the gradient of every parameter,
 * without and with an adapter, as transformers and peft computed them in float32 (torch 2.15, transformers 5.24, peft 0.21).
 * A fixture is one safetensors file: parameters under their hub names, `input.*`, `base.*`, `adapted.*`, and both configs
 * in its metadata. 2e-4 of a tensor's largest entry is what the two float32 computations may differ by.
 */
import { readFileSync } from 'node:fs';
import { afterAll, describe, expect, it } from 'vitest';
import { gradients } from '../../engine/graph/autodiff.ts';
import { Graph } from '../../engine/graph/graph.ts';
import { linearLoss } from '../../engine/ops/index.ts';
import { plan } from '../../engine/plan/plan.ts';
import { Arena, Program, type HostArray } from '../../engine/run/program.ts';
import { expectClose, testDevice } from '../../engine/testing.ts';
import { MemorySource } from '../../formats/byte-source.ts';
import { parseAdapterConfig } from '../../formats/peft.ts';
import { openSafetensors } from '../../formats/safetensors.ts';
import { decoder, logitsOf } from '../decoder.ts';
import { Generator } from '../generate.ts';
import { sequenceLogits } from '../logits.ts';
import { pickToken } from '../sampling.ts';
import { readArchitecture } from './index.ts';

const TOLERANCE = 2e-4;
const arenas: Arena[] = [];
afterAll(() => arenas.forEach((arena) => arena.free()));

async function fixture(name: string) {
  const bytes = Uint8Array.from(readFileSync(new URL(`./${name}.fixture.safetensors`, import.meta.url)));
  const file = await openSafetensors(new MemorySource(name, bytes));
  const config = JSON.parse(file.metadata.config!) as Record<string, unknown>;
  const adapter = parseAdapterConfig(JSON.parse(file.metadata.adapter_config!), 'adapter_config.json');
  return { file, config, adapter };
}

/** Logits, hidden states, loss and gradients by name, from the graph that trains. */
async function computed(
  { file, config, adapter }: Awaited<ReturnType<typeof fixture>>,
  adapted: boolean,
): Promise<ReadonlyMap<string, HostArray>> {
  const device = await testDevice();
  const options = readArchitecture(config, 'config.json');
  const [rows, length] = file.tensors.get('input.input_ids')!.shape as [number, number];
  const graph = new Graph();
  const ids = (name: string) => graph.input(name, [rows, length], 'i32');
  const segments = ids('segments');
  const { hidden, hidden_states, head } = decoder(
    graph,
    options,
    {
      input_ids: ids('input_ids'),
      position_ids: ids('position_ids'),
      query_segments: segments,
      key_segments: segments,
    },
    adapted ? { adapter: { settings: adapter, trainable: true } } : { trainable: () => true },
  );
  graph.output('logits', logitsOf(options, hidden, head));
  if (!adapted) hidden_states.forEach((value, i) => graph.output(`hidden.${i}`, value));
  const { loss } = linearLoss(hidden, head, ids('targets'), graph.input('token_scale', [1]), {
    objective: 'none',
    temperature: 1,
    alpha: 0,
    tail: 'ignore',
    label_smoothing: 0,
    softcap: options.final_logit_softcapping,
    hiddenGradient: true,
    weightGradient: graph.isTrained(head),
  });
  graph.output('loss', loss);
  const trained = graph.parameters().filter(({ trainable }) => trainable);
  const one = graph.constant('one', [1], Float32Array.of(1));
  const values = trained.map(({ value }) => value);
  const found = gradients(graph, loss, one, values);
  for (const { name, value } of trained) graph.output(`grad.${name}`, found.get(value)!);

  const tensors = new Map();
  for (const { name, value } of graph.parameters()) {
    tensors.set(name, device.tensor(value.type, await file.readF32(storedName(name, file.tensors))));
  }
  const whole = async (name: string) => (await file.read(`input.${name}`)) as Int32Array;
  const labels = await whole('labels');
  const targets = labels.map((_, i) => (i % length === length - 1 ? -100 : labels[i + 1]!));
  const counted = targets.reduce((count, target) => count + Number(target !== -100), 0);
  const arena = new Arena(device);
  arenas.push(arena);
  const program = await Program.create(device, plan(graph, device.limits), tensors, arena);
  const results = await program.run({
    input_ids: await whole('input_ids'),
    position_ids: Int32Array.from({ length: rows * length }, (_, i) => i % length),
    segments: await whole('attention_mask'),
    targets,
    token_scale: Float32Array.of(1 / counted),
  });
  program.free();
  return results;
}

/** PEFT keeps an adapter's tensors under a prefix, DoRA's magnitudes without `.weight`. */
function storedName(name: string, tensors: ReadonlyMap<string, unknown>): string {
  if (tensors.has(name)) return name;
  return `base_model.model.${name.replace(/(lora_magnitude_vector)\.weight$/, '$1')}`;
}

/** What stands at padding is nobody's business. */
function withoutPadding(data: HostArray, mask: Int32Array): number[] {
  const width = data.length / mask.length;
  return Array.from(data, (value, i) => (mask[Math.floor(i / width)] === 0 ? 0 : value));
}

const ARCHITECTURES = ['mistral', 'qwen2', 'qwen3', 'phi3', 'gemma2', 'gemma3', 'gemma3-capped'];

describe.each(ARCHITECTURES)('%s computes what PyTorch computes', (name) => {
  for (const part of ['base', 'adapted']) {
    it(part, async () => {
      const given = await fixture(name);
      const got = await computed(given, part === 'adapted');
      const mask = (await given.file.read('input.attention_mask')) as Int32Array;
      const wanted = new Map<string, Float32Array>();
      for (const stored of given.file.tensors.keys()) {
        if (stored.startsWith(`${part}.`)) {
          wanted.set(stored.slice(part.length + 1), await given.file.readF32(stored));
        }
      }
      const gradientNames = (names: Iterable<string>) => [...names].filter((one) => one.startsWith('grad.')).sort();
      expect(gradientNames(got.keys())).toEqual(gradientNames(wanted.keys()));
      // the gradient of a bias of k is zero but for noise, which is held against the largest of all
      const largest = Math.max(...[...wanted].map(([one, data]) => (one.startsWith('grad.') ? maxOf(data) : 0)));
      for (const [one, data] of wanted) {
        const found = got.get(one)!;
        if (!one.startsWith('grad.') && one !== 'loss') {
          expectClose(withoutPadding(found, mask), withoutPadding(data, mask), TOLERANCE, one);
        } else if (maxOf(data) > 1e-5 * largest) expectClose(found, data, TOLERANCE, one);
        else expect(maxOf(found), one).toBeLessThan(1e-5 * largest);
      }
    });
  }
});

it('gemma2 writes, against its cache, the words that its whole logits draw', async () => {
  const { file, config } = await fixture('gemma2');
  const device = await testDevice();
  const options = readArchitecture(config, 'config.json');
  const tensors = new Map();
  for (const [name, { shape }] of file.tensors) {
    if (name.startsWith('model.')) tensors.set(name, device.tensor({ shape, dtype: 'f32' }, await file.readF32(name)));
  }
  const prompt = [7, 21, 3, 30, 11];
  const generator = await Generator.create(device, options, tensors, { batch: 1, prompt: 6, capacity: 14 });
  const sampling = { temperature: 4, top_p: 1, seed: 5 };
  const [written] = await generator.generate([prompt], { max_new_tokens: 8, eos_token_ids: [], ...sampling });
  generator.free();
  const [whole] = await sequenceLogits(device, options, tensors, [[...prompt, ...written!]]);
  const said = written!.map((_, i) => {
    const at = (prompt.length - 1 + i) * options.vocab_size;
    return pickToken(whole!.logits.subarray(at, at + options.vocab_size), sampling, 0, i);
  });
  expect(written).toEqual(said);
  expect(new Set(written).size).toBeGreaterThan(1);
});

const maxOf = (data: ArrayLike<number>): number =>
  Array.from(data).reduce((max, one) => Math.max(max, Math.abs(one)), 0);
