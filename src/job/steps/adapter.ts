/** PEFT adapters that a recipe names: read, checked against what can be computed, as the decoder's settings. */
import type { Device, DeviceTensor } from '../../engine/run/device.ts';
import { InputError } from '../../formats/input-error.ts';
import { readAdapter, type Adapter, type AdapterConfig } from '../../formats/peft.ts';
import type { DecoderAdapter } from '../../models/decoder.ts';
import type { LoraSettings } from '../../models/lora.ts';
import type { Model } from '../../models/model.ts';
import { loadAdapter } from '../../models/on-device.ts';
import type { RecipeContext } from '../context.ts';

export async function openAdapter(context: RecipeContext, place: string, value: string): Promise<Adapter> {
  const adapter = await readAdapter(await context.sources.model(place, value));
  refuseUnserved(adapter.config, value);
  return adapter;
}

/** The low-rank part of a PEFT config. */
export function loraSettings(config: AdapterConfig, lora_dropout: number): LoraSettings {
  const { r, lora_alpha, target_modules, use_rslora, use_dora, rank_pattern, alpha_pattern, trainable_token_indices } =
    config;
  return {
    r,
    lora_alpha,
    lora_dropout,
    target_modules,
    use_rslora,
    use_dora,
    trainable_token_indices,
    rank_pattern,
    alpha_pattern,
  };
}

/** The teacher's own adapter, on the device; nothing where the recipe names none. */
export async function loadTeacherAdapter(
  context: RecipeContext,
  device: Device,
  model: Model,
): Promise<{ tensors: ReadonlyMap<string, DeviceTensor>; decoder: DecoderAdapter | undefined }> {
  const { teacher } = context.recipe;
  if (teacher.kind !== 'engine' || teacher.adapter === null) return { tensors: new Map(), decoder: undefined };
  const adapter = await openAdapter(context, 'teacher.adapter', teacher.adapter);
  const tensors = loadAdapter(device, model.options, adapter, teacher.adapter);
  return { tensors, decoder: { settings: loraSettings(adapter.config, 0), trainable: false } };
}

function refuseUnserved(config: AdapterConfig, file: string): void {
  const refuse = (place: string, value: unknown, allowed: string): never => {
    throw new InputError(`${file}/adapter_config.json`, place, `${JSON.stringify(value)} is not built yet`, allowed);
  };
  if (config.bias !== 'none') refuse('bias', config.bias, '"none"');
  if (config.modules_to_save?.length) refuse('modules_to_save', config.modules_to_save, 'null');
  if (config.layers_to_transform !== null) refuse('layers_to_transform', config.layers_to_transform, 'null');
  if (config.exclude_modules?.length) refuse('exclude_modules', config.exclude_modules, 'null');
  const [other] = Object.keys(config.others);
  if (other !== undefined) refuse(other, config.others[other], 'an adapter without it');
}
