/** PEFT adapters that a recipe names: read, checked against what can be computed, as the decoder's settings. */
import { InputError } from '../../formats/input-error.ts';
import { readAdapter, type Adapter, type AdapterConfig } from '../../formats/peft.ts';
import type { LoraSettings } from '../../models/lora.ts';
import type { RecipeContext } from '../context.ts';

export async function openAdapter(context: RecipeContext, place: string, value: string): Promise<Adapter> {
  const adapter = await readAdapter(await context.sources.model(place, value));
  refuseUnserved(adapter.config, value);
  return adapter;
}

/** A PEFT config, as far as it says what is computed and trained. */
export function loraSettings(config: AdapterConfig, lora_dropout: number): LoraSettings {
  const { r, lora_alpha, target_modules, use_rslora, use_dora, rank_pattern, alpha_pattern } = config;
  const { trainable_token_indices, modules_to_save, bias } = config;
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
    modules_to_save,
    bias,
  };
}

function refuseUnserved(config: AdapterConfig, file: string): void {
  const refuse = (place: string, value: unknown, allowed: string): never => {
    throw new InputError(`${file}/adapter_config.json`, place, `${JSON.stringify(value)} is not built yet`, allowed);
  };
  if (config.layers_to_transform !== null) refuse('layers_to_transform', config.layers_to_transform, 'null');
  if (config.exclude_modules?.length) refuse('exclude_modules', config.exclude_modules, 'null');
  const [other] = Object.keys(config.others);
  if (other !== undefined) refuse(other, config.others[other], 'an adapter without it');
}
