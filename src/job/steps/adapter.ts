/** PEFT adapters that a recipe names, and the settings that they are trained with. */
import { readAdapter, type Adapter, type AdapterConfig } from '../../formats/peft.ts';
import type { LoraSettings } from '../../models/lora.ts';
import type { RecipeContext } from '../context.ts';

export async function openAdapter(context: RecipeContext, place: string, value: string): Promise<Adapter> {
  return readAdapter(await context.sources.model(place, value));
}

/** A PEFT config, as far as it says what is computed and trained. */
export const loraSettings = (config: AdapterConfig, lora_dropout: number): LoraSettings => ({
  ...config,
  lora_dropout,
});
