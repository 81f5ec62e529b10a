/**
 * Rotary position tables (Su et al. 2021, RoFormer §3.4) with the scalings that hub configs name, as transformers'
 * `modeling_rope_utils` computes them: linear, dynamic (NTK), yarn (Peng et al. 2023), longrope (Ding et al. 2024), llama3.
 * Made in float64 on the CPU, but for the frequencies: a GPU's `sin` may be off by 1e-4.
 */
import { InputError } from '../formats/input-error.ts';
import type { ConfigReader, RawConfig } from './config.ts';

export interface RotaryOptions {
  readonly theta: number;
  /** Rotated dimensions of a head; even. */
  readonly dims: number;
  readonly scaling: RotaryScaling;
}

export type RotaryScaling =
  | { readonly kind: 'default' }
  | { readonly kind: 'linear'; readonly factor: number }
  /** Another base for sequences longer than `trained`; the same numbers up to there. */
  | { readonly kind: 'dynamic'; readonly factor: number; readonly trained: number }
  | {
      readonly kind: 'llama3';
      readonly factor: number;
      readonly low_freq_factor: number;
      readonly high_freq_factor: number;
      readonly original_max_position_embeddings: number;
    }
  | {
      readonly kind: 'yarn';
      readonly factor: number;
      /** Multiplies cos and sin. */
      readonly attention_factor: number;
      /** Dimensions between which interpolation fades in. */
      readonly low: number;
      readonly high: number;
    }
  | {
      readonly kind: 'longrope';
      readonly attention_factor: number;
      /** A divisor for each frequency: sequences up to `original_max_position_embeddings`, and longer ones. */
      readonly short_factor: readonly number[];
      readonly long_factor: readonly number[];
      readonly original_max_position_embeddings: number;
    };

/** Every field that transformers reads; another one would change numbers in a way that is not computed here. */
const FIELDS = new Set(
  `rope_theta rope_type type factor partial_rotary_factor original_max_position_embeddings attention_factor beta_fast
  beta_slow mscale mscale_all_dim truncate short_factor long_factor low_freq_factor high_freq_factor`.split(/\s+/),
);

export interface ReadRotary {
  readonly theta?: number;
  /** What a model's own names of kinds mean. */
  readonly aliases?: Readonly<Record<string, string>>;
  /** The settings, where they do not lie at the config's top, and what errors call them. */
  readonly parameters?: RawConfig;
  readonly place?: string;
  /** The architecture turns a part of a head where `partial_rotary_factor` says so; others do not read it. */
  readonly partial?: boolean;
  /** `original_max_position_embeddings` where neither config nor settings say; else max_position_embeddings. */
  readonly original?: number;
}

/** Both spellings: `rope_parameters` (transformers 5) and `rope_theta` with `rope_scaling` (older hub files). */
export function readRotary(config: ConfigReader, headDim: number, given: ReadRotary = {}): RotaryOptions {
  const parameters: RawConfig = given.parameters ?? {
    rope_theta: config.raw.rope_theta,
    ...config.object('rope_parameters'),
    ...config.object('rope_scaling'),
  };
  const place = given.place ?? (config.object('rope_scaling') ? 'rope_scaling' : 'rope_parameters');
  const refuse = (field: string, allowed: string): InputError => {
    const value = parameters[field];
    const what = value === undefined || value === null ? 'it is missing' : `${JSON.stringify(value)} is not served`;
    return new InputError(config.file, `${place}.${field}`, what, allowed);
  };
  const optional = (field: string): number | undefined => {
    const value = parameters[field] ?? undefined;
    if (value === undefined) return undefined;
    if (typeof value !== 'number' || !Number.isFinite(value) || value <= 0) throw refuse(field, 'a number above 0');
    return value;
  };
  const number = (field: string, otherwise?: number): number => {
    const value = optional(field) ?? otherwise;
    if (value === undefined) throw refuse(field, 'a number above 0');
    return value;
  };
  const unknown = Object.keys(parameters).find((field) => !FIELDS.has(field) && parameters[field] !== null);
  if (unknown !== undefined) throw refuse(unknown, 'no such field');

  const share = number('partial_rotary_factor', config.positive('partial_rotary_factor', 1));
  if (share !== 1 && !given.partial) {
    const what = `${share} is not served: transformers turns whole heads of ${String(config.raw.model_type)}`;
    throw new InputError(config.file, `${place}.partial_rotary_factor`, what, '1');
  }
  const dims = Math.floor(headDim * share);
  if (share > 1 || dims % 2 !== 0 || dims === 0) {
    const allowed = `from 0 to 1, and an even number of the head's ${headDim} dimensions`;
    throw new InputError(config.file, `${place}.partial_rotary_factor`, `${share} is not served`, allowed);
  }
  const theta = number('rope_theta', given.theta ?? 10000);
  const length = (): number => config.count('max_position_embeddings', 2048);
  // a value beside the settings counts before one among them, as transformers has it
  const original = (): number =>
    config.raw.original_max_position_embeddings != null
      ? config.count('original_max_position_embeddings')
      : number('original_max_position_embeddings', given.original ?? length());
  const named = parameters.rope_type ?? parameters.type ?? 'default';
  const kind: string = typeof named === 'string' ? (given.aliases?.[named] ?? named) : '';
  const scaling = (): RotaryScaling => {
    switch (kind) {
      case 'default':
        return { kind };
      case 'linear':
        return { kind, factor: number('factor') };
      case 'dynamic':
        return { kind, factor: number('factor'), trained: length() };
      case 'llama3':
        return {
          kind,
          factor: number('factor'),
          low_freq_factor: number('low_freq_factor'),
          high_freq_factor: number('high_freq_factor'),
          original_max_position_embeddings: original(),
        };
      case 'yarn': {
        const factor = number('factor', length() / original());
        // the dimension that turns so many times over the original length
        const dimension = (turns: number): number =>
          (dims * Math.log(original() / (turns * 2 * Math.PI))) / (2 * Math.log(theta));
        const [low, high] = [dimension(number('beta_fast', 32)), dimension(number('beta_slow', 1))];
        const whole = parameters.truncate !== false;
        const grown = (by: number): number => (factor <= 1 ? 1 : 0.1 * by * Math.log(factor) + 1);
        const [mscale, all] = [parameters.mscale, parameters.mscale_all_dim];
        return {
          kind,
          factor,
          attention_factor: number(
            'attention_factor',
            mscale && all ? grown(number('mscale')) / grown(number('mscale_all_dim')) : grown(1),
          ),
          low: Math.max(whole ? Math.floor(low) : low, 0),
          high: Math.min(whole ? Math.ceil(high) : high, dims - 1),
        };
      }
      case 'longrope': {
        const factors = (field: string): readonly number[] => {
          const list: unknown = parameters[field];
          const fits =
            Array.isArray(list) && list.length === dims / 2 && list.every((f) => Number.isFinite(f) && f > 0);
          if (!fits) throw refuse(field, `${dims / 2} numbers above 0`);
          return list as number[];
        };
        const factor = number('factor', length() / original());
        const grown = factor <= 1 ? 1 : Math.sqrt(1 + Math.log(factor) / Math.log(original()));
        return {
          kind,
          attention_factor: number('attention_factor', grown),
          short_factor: factors('short_factor'),
          long_factor: factors('long_factor'),
          original_max_position_embeddings: original(),
        };
      }
      default:
        throw refuse(
          parameters.rope_type === undefined ? 'type' : 'rope_type',
          'default, linear, dynamic, yarn, longrope or llama3',
        );
    }
  };
  return { theta, dims, scaling: scaling() };
}

/** The length that tables for sequences of `length` are made for: two that give the same are turned alike. */
export function tablesFor({ scaling }: RotaryOptions, length: number): number {
  switch (scaling.kind) {
    case 'dynamic':
      return Math.max(length, scaling.trained);
    case 'longrope': {
      const { original_max_position_embeddings: original } = scaling;
      return length > original ? original + 1 : original;
    }
    default:
      return 1;
  }
}

export interface RotaryTables {
  readonly cos: Float32Array;
  readonly sin: Float32Array;
}

/**
 * cos and sin, f32 [positions, dims / 2].
 * @param length how long the sequences are that they are for: some scalings depend on it
 */
export function rotaryTables(options: RotaryOptions, positions: number, length = positions): RotaryTables {
  const half = options.dims / 2;
  const { scaling } = options;
  const gain = scaling.kind === 'yarn' || scaling.kind === 'longrope' ? scaling.attention_factor : 1;
  const cos = new Float32Array(positions * half);
  const sin = new Float32Array(positions * half);
  for (let i = 0; i < half; i++) {
    const frequency = frequencyOf(options, i, length);
    for (let p = 0; p < positions; p++) {
      const angle = Math.fround(p * frequency);
      cos[p * half + i] = Math.cos(angle) * gain;
      sin[p * half + i] = Math.sin(angle) * gain;
    }
  }
  return { cos, sin };
}

/** In float32, as transformers computes it: positions up to some thousands would show the difference. */
function frequencyOf({ theta, dims, scaling }: RotaryOptions, i: number, length: number): number {
  const exponent = Math.fround((2 * i) / dims);
  const period = Math.fround(theta ** exponent);
  const plain = Math.fround(1 / period);
  switch (scaling.kind) {
    case 'default':
      return plain;
    case 'linear':
      return Math.fround(plain / scaling.factor);
    case 'dynamic': {
      const seen = Math.max(length, scaling.trained);
      const stretch = (scaling.factor * seen) / scaling.trained - (scaling.factor - 1);
      return Math.fround(1 / Math.fround((theta * stretch ** (dims / (dims - 2))) ** exponent));
    }
    case 'longrope': {
      const { short_factor, long_factor, original_max_position_embeddings } = scaling;
      const factors = length > original_max_position_embeddings ? long_factor : short_factor;
      return Math.fround(1 / Math.fround(Math.fround(factors[i]!) * period));
    }
    case 'yarn': {
      const { low, factor } = scaling;
      const high = scaling.high === low ? low + 0.001 : scaling.high;
      const stretched = Math.min(Math.max((i - low) / (high - low), 0), 1);
      return Math.fround(stretched / (factor * period) + (1 - stretched) * plain);
    }
    case 'llama3': {
      const { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings: original } = scaling;
      const wavelength = (2 * Math.PI) / plain;
      if (wavelength > original / low_freq_factor) return Math.fround(plain / factor);
      if (wavelength < original / high_freq_factor) return plain;
      const smooth = (original / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
      return Math.fround(((1 - smooth) * plain) / factor + smooth * plain);
    }
  }
}
