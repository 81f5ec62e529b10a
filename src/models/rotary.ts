/**
 * Rotary position tables (Su et al. 2021, RoFormer §3.4) with the scalings that hub configs name, as transformers'
 * `modeling_rope_utils` computes them. Made in float64 on the CPU: a GPU's `sin` may be off by 1e-4.
 */
import { InputError } from '../formats/input-error.ts';
import type { ConfigReader, RawConfig } from './config.ts';

export interface RotaryOptions {
  readonly theta: number;
  /** Rotated dimensions of a head; even. */
  readonly dims: number;
  readonly scaling:
    | { readonly kind: 'default' }
    | { readonly kind: 'linear'; readonly factor: number }
    | {
        readonly kind: 'llama3';
        readonly factor: number;
        readonly low_freq_factor: number;
        readonly high_freq_factor: number;
        readonly original_max_position_embeddings: number;
      };
}

/** Both spellings: `rope_parameters` (transformers 5) and `rope_theta` with `rope_scaling` (older hub files). */
export function readRotary(config: ConfigReader, headDim: number): RotaryOptions {
  const parameters: RawConfig = config.object('rope_parameters') ?? {
    rope_theta: config.raw.rope_theta,
    ...config.object('rope_scaling'),
  };
  const place = config.raw.rope_parameters ? 'rope_parameters' : 'rope_scaling';
  const number = (field: string, otherwise?: number): number => {
    const value = parameters[field] ?? otherwise;
    if (typeof value !== 'number' || !(value > 0)) {
      throw new InputError(
        config.file,
        `${place}.${field}`,
        `${JSON.stringify(value)} is not served`,
        'a number above 0',
      );
    }
    return value;
  };
  const kind = parameters.rope_type ?? parameters.type ?? 'default';
  const share = (parameters.partial_rotary_factor ?? config.raw.partial_rotary_factor ?? 1) as number;
  const base = { theta: number('rope_theta', 10000), dims: Math.floor(headDim * share) };
  switch (kind) {
    case 'default':
      return { ...base, scaling: { kind: 'default' } };
    case 'linear':
      return { ...base, scaling: { kind: 'linear', factor: number('factor') } };
    case 'llama3':
      return {
        ...base,
        scaling: {
          kind: 'llama3',
          factor: number('factor'),
          low_freq_factor: number('low_freq_factor'),
          high_freq_factor: number('high_freq_factor'),
          original_max_position_embeddings: number(
            'original_max_position_embeddings',
            config.raw.max_position_embeddings as number,
          ),
        },
      };
    default:
      throw new InputError(
        config.file,
        `${place}.rope_type`,
        `${JSON.stringify(kind)} is not served`,
        'default, linear or llama3',
      );
  }
}

/** cos and sin, f32 [positions, dims / 2]. */
export function rotaryTables(options: RotaryOptions, positions: number): { cos: Float32Array; sin: Float32Array } {
  const half = options.dims / 2;
  const cos = new Float32Array(positions * half);
  const sin = new Float32Array(positions * half);
  for (let i = 0; i < half; i++) {
    // transformers computes the frequencies in float32; positions up to some thousands would show the difference
    const frequency = Math.fround(
      scaled(Math.fround(1 / Math.fround(options.theta ** Math.fround((2 * i) / options.dims))), options.scaling),
    );
    for (let p = 0; p < positions; p++) {
      const angle = Math.fround(p * frequency);
      cos[p * half + i] = Math.cos(angle);
      sin[p * half + i] = Math.sin(angle);
    }
  }
  return { cos, sin };
}

function scaled(frequency: number, scaling: RotaryOptions['scaling']): number {
  if (scaling.kind === 'default') return frequency;
  if (scaling.kind === 'linear') return frequency / scaling.factor;
  const { factor, low_freq_factor: low, high_freq_factor: high, original_max_position_embeddings: original } = scaling;
  const wavelength = (2 * Math.PI) / frequency;
  if (wavelength > original / low) return frequency / factor;
  if (wavelength < original / high) return frequency;
  const smooth = (original / wavelength - low) / (high - low);
  return ((1 - smooth) * frequency) / factor + smooth * frequency;
}
