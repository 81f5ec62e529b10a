/**
 * Which modules a PEFT config means, and with which rank and scale: the rules of peft's check_target_module_exists,
 * get_pattern_key and LoraLayer.update_layer.
 */
import { InputError } from './input-error.ts';
import type { AdapterConfig } from './peft.ts';

/**
 * Whether a module path is meant. A list holds names that end the path; a string is a regular expression for all of it;
 * `all-linear` means every path that is asked about: the caller asks about linear layers other than the head.
 */
export function moduleMatcher(
  modules: readonly string[] | string,
  file: string,
  field: string,
): (path: string) => boolean {
  if (modules === 'all-linear') return () => true;
  if (typeof modules === 'string') {
    const whole = patternOf(`^(?:${modules})$`, file, field);
    return (path) => whole.test(path);
  }
  return (path) => modules.some((name) => path === name || path.endsWith(`.${name}`));
}

/** What of a config says where pairs are. */
export type PairPlaces = Pick<AdapterConfig, 'target_modules'> &
  Partial<Pick<AdapterConfig, 'exclude_modules' | 'layers_to_transform' | 'layers_pattern' | 'modules_to_save'>>;

/** Whether the adapter has a pair at this path: by target, exclusion and layer, and not in a module that is saved whole. */
export function targets(config: PairPlaces, path: string, file: string): boolean {
  const { target_modules, exclude_modules, layers_to_transform, layers_pattern, modules_to_save } = config;
  if (exclude_modules?.length && moduleMatcher(exclude_modules, file, 'exclude_modules')(path)) return false;
  if (modules_to_save?.some((name) => `.${path}.`.includes(`.${name}.`))) return false;
  if (!moduleMatcher(target_modules, file, 'target_modules')(path)) return false;
  // layers are counted for names that end a path, not for a pattern or a whole path
  if (!layers_to_transform?.length || typeof target_modules === 'string' || target_modules.includes(path)) return true;
  const names = layers_pattern?.length ? layers_pattern : ['[^.]*'];
  const layer = names.map((name) => patternOf(`(?:^|\\.)${name}\\.(\\d+)\\.`, file, 'layers_pattern').exec(path)?.[1]);
  const found = layer.find((number) => number !== undefined);
  return found !== undefined && layers_to_transform.includes(Number(found));
}

/** r of a module: that of the first pattern that its path ends with, else the config's own. */
export function rankOf(
  config: Pick<AdapterConfig, 'r'> & Partial<Pick<AdapterConfig, 'rank_pattern'>>,
  path: string,
  file: string,
  field = 'rank_pattern',
): number {
  return byPattern(config.rank_pattern, path, file, field) ?? config.r;
}

/** What B·A·x is multiplied by. */
export function scalingOf(
  config: Pick<AdapterConfig, 'r' | 'lora_alpha' | 'use_rslora'> &
    Partial<Pick<AdapterConfig, 'rank_pattern' | 'alpha_pattern'>>,
  path: string,
  file: string,
): number {
  const alpha = byPattern(config.alpha_pattern, path, file, 'alpha_pattern') ?? config.lora_alpha;
  const rank = rankOf(config, path, file);
  return alpha / (config.use_rslora ? Math.sqrt(rank) : rank);
}

function byPattern(
  patterns: Readonly<Record<string, number>> | undefined,
  path: string,
  file: string,
  field: string,
): number | undefined {
  for (const [pattern, value] of Object.entries(patterns ?? {})) {
    if (patternOf(`^(?:.*\\.)?(?:${pattern})$`, file, field).test(path)) return value;
  }
  return undefined;
}

/**
 * Patterns come from a file. One that repeats a group, or repeats anything more than a few times, could take hours on a
 * path of fifty letters: refused.
 */
function patternOf(pattern: string, file: string, field: string): RegExp {
  const refuse = (what: string) => new InputError(file, field, what, 'a regular expression for module paths');
  const plain = pattern.replace(/\\./g, 'x').replace(/\[[^\]]*\]/g, 'x');
  const groupRepeats = /\)(?:[*+]|\{)/.test(plain);
  if (pattern.length > 2000 || groupRepeats || (plain.match(/[*+}]/g) ?? []).length > 6) {
    throw refuse('its pattern is too complex to try safely');
  }
  try {
    return new RegExp(pattern);
  } catch {
    throw refuse(`${JSON.stringify(pattern)} is not one`);
  }
}
