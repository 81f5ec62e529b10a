/**
 * What a new adapter starts from, as PEFT's `reset_lora_parameters` (tuners/lora/layer.py), with numbers that are a pure
 * function of seed and name:
 *   true        A ~ U(±1/√in) (kaiming_uniform, a = √5), B = 0: the model is unchanged
 *   "gaussian"  A ~ N(0, 1/r²), B = 0
 *   false       A as for true, B ~ U(±1/√r) (torch's default of a linear layer)
 * DoRA's magnitudes are the lengths of the weight's rows with the pair in it; rows of new tokens are the table's own, and
 * what is trained whole starts as the base has it.
 */
import { concrete } from '../engine/graph/types.ts';
import type { AdapterTensor } from '../formats/peft.ts';
import { isEncoder, type ModelOptions } from './architectures/index.ts';
import { initialLora, initialWeight } from './initialize.ts';
import { adapted, trainedRows, trainsWhole, type LoraSettings } from './lora.ts';
import { adapterParameters, type Model } from './model.ts';

export type LoraInit = boolean | 'gaussian';

export async function newAdapter(
  { options, weights }: Pick<Model<ModelOptions>, 'options' | 'weights'>,
  settings: LoraSettings,
  init: LoraInit,
  seed: number,
): Promise<Map<string, AdapterTensor>> {
  const tensors = new Map<string, AdapterTensor>();
  const conv1d = !isEncoder(options) && options.conv1d === true;
  const shapes = [...adapterParameters(options, settings)].map(([name, shape]) => [name, concrete(shape)] as const);
  for (const [name, shape] of shapes) {
    if (!/\.lora_[AB]\.weight$/.test(name)) continue;
    tensors.set(name, { shape, data: start(name, shape as [number, number], init, seed) });
  }
  for (const [name, shape] of shapes) {
    if (trainsWhole(settings, name)) tensors.set(name, { shape, data: await weights.readF32(name) });
    if (name.endsWith(ROWS)) {
      const path = name.slice(0, -ROWS.length);
      const { first } = trainedRows(settings, path, path !== 'lm_head')!;
      const table = await weights.readF32(`${path}.weight`);
      tensors.set(name, { shape, data: table.slice(first * shape[1]!, (first + shape[0]!) * shape[1]!) });
    }
    if (!name.endsWith(MAGNITUDE)) continue;
    const path = name.slice(0, -MAGNITUDE.length);
    const pair = { a: tensors.get(`${path}.lora_A.weight`)!, b: tensors.get(`${path}.lora_B.weight`)! };
    const { scaling } = adapted(settings, path)!;
    const weight = await weights.readF32(`${path}.weight`);
    tensors.set(name, { shape, data: rowNorms(weight, pair, scaling, conv1d && path !== 'lm_head') });
  }
  return tensors;
}

const MAGNITUDE = '.lora_magnitude_vector.weight';
const ROWS = '.token_adapter.trainable_tokens_delta';

/** ‖row of (W + scaling · B·A)‖ for each output: what DoRA starts from, so that the model is unchanged. */
function rowNorms(
  weight: Float32Array,
  { a, b }: { a: AdapterTensor; b: AdapterTensor },
  scaling: number,
  conv1d: boolean,
): Float32Array<ArrayBuffer> {
  const [rank, inputs] = a.shape as [number, number];
  const outputs = b.shape[0]!;
  return Float32Array.from({ length: outputs }, (_, o) => {
    let square = 0;
    for (let i = 0; i < inputs; i++) {
      let delta = 0;
      for (let r = 0; r < rank; r++) delta += b.data[o * rank + r]! * a.data[r * inputs + i]!;
      square += (weight[conv1d ? i * outputs + o : o * inputs + i]! + scaling * delta) ** 2;
    }
    return Math.sqrt(square);
  });
}

function start(
  name: string,
  shape: readonly [number, number],
  init: LoraInit,
  seed: number,
): Float32Array<ArrayBuffer> {
  const isA = name.endsWith('.lora_A.weight');
  if (isA && init === 'gaussian') return initialWeight(name, shape, seed, 1 / shape[0]);
  // The rule for A, with r in place of in, is torch's default for B: both are 1/√columns.
  if (!isA && init === false) return initialLora(name.replace('.lora_B.', '.lora_A.of_B.'), shape, seed);
  return initialLora(name, shape, seed);
}

/** PEFT's choice of target modules where a config names none (utils/constants.py), by model_type. */
const DEFAULT_TARGETS: Readonly<Record<string, readonly string[]>> = {
  llama: ['q_proj', 'v_proj'],
  mistral: ['q_proj', 'v_proj'],
  qwen2: ['q_proj', 'v_proj'],
  qwen3: ['q_proj', 'v_proj'],
  gemma2: ['q_proj', 'v_proj'],
  gemma3_text: ['q_proj', 'v_proj'],
  phi3: ['qkv_proj'],
  gpt2: ['c_attn'],
  bert: ['query', 'value'],
  distilbert: ['q_lin', 'v_lin'],
};

export const defaultTargets = (model_type: unknown): readonly string[] | undefined =>
  typeof model_type === 'string' ? DEFAULT_TARGETS[model_type] : undefined;
