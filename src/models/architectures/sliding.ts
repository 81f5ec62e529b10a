/** Which layers see only a window of keys: `layer_types` where a config lists them, else the architecture's habit. */
import type { ConfigReader } from '../config.ts';

const KINDS = ['full_attention', 'sliding_attention'];

export function slidingLayers(config: ConfigReader, habit: (layer: number) => boolean): readonly boolean[] {
  const count = config.layers('num_hidden_layers');
  const types = config.raw.layer_types;
  if (types === undefined || types === null) return Array.from({ length: count }, (_, layer) => habit(layer));
  if (!Array.isArray(types) || types.length !== count || types.some((type) => !KINDS.includes(type as string))) {
    throw config.wrong('layer_types', types, `${count} of ${KINDS.join(' and ')}`);
  }
  return types.map((type) => type === 'sliding_attention');
}

/** Qwen's: a window only where `use_sliding_window` says so, from layer `max_window_layers` on. */
export function qwenWindow(config: ConfigReader): { sliding_window?: number; sliding_layers?: readonly boolean[] } {
  const used = config.flag('use_sliding_window', false) && config.raw.sliding_window !== null;
  const from = config.raw.max_window_layers === 0 ? 0 : config.count('max_window_layers', 28);
  const sliding_layers = slidingLayers(config, (layer) => used && layer >= from);
  if (!sliding_layers.includes(true)) return {};
  if (!used)
    throw config.wrong('layer_types', config.raw.layer_types, 'no sliding_attention without use_sliding_window');
  return { sliding_window: config.count('sliding_window', 4096), sliding_layers };
}
