/** Which architectures there are, by the `model_type` of `config.json`. A new one is a new file and a line here. */
import { InputError } from '../../formats/input-error.ts';
import { ConfigReader, type RawConfig } from '../config.ts';
import type { DecoderOptions } from '../decoder.ts';
import type { EncoderOptions } from '../encoder.ts';
import { bert } from './bert.ts';
import { distilbert, DISTILBERT_FIELDS } from './distilbert.ts';
import { gemma2 } from './gemma2.ts';
import { gemma3, gemmaText } from './gemma3.ts';
import { gpt2, GPT2_FIELDS } from './gpt2.ts';
import { llama } from './llama.ts';
import { mistral } from './mistral.ts';
import { phi3 } from './phi3.ts';
import { qwen2 } from './qwen2.ts';
import { qwen3 } from './qwen3.ts';

/** Models that write text. */
const DECODERS: Readonly<Record<string, (config: ConfigReader) => DecoderOptions>> = {
  llama,
  mistral,
  qwen2,
  qwen3,
  phi3,
  gemma2,
  gemma3_text: gemma3,
  gpt2,
};

/** Models that read it both ways; their files say which parts are there. */
const ENCODERS: Readonly<Record<string, (config: ConfigReader, stored: ReadonlySet<string>) => EncoderOptions>> = {
  bert,
  distilbert,
};

export type ModelOptions = DecoderOptions | EncoderOptions;

export const isEncoder = (options: ModelOptions): options is EncoderOptions =>
  (options as EncoderOptions).kind === 'encoder';

/** What config.json calls a size, for architectures with names of their own. */
const FIELDS: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  gpt2: GPT2_FIELDS,
  distilbert: DISTILBERT_FIELDS,
};

export function configField(model_type: unknown, name: string): string {
  return (typeof model_type === 'string' && FIELDS[model_type]?.[name]) || name;
}

/** @param stored names of the tensors that the model's file holds */
export function readAnyArchitecture(raw: RawConfig, file: string, stored: ReadonlySet<string>): ModelOptions {
  return readEncoder(raw, file, stored) ?? readArchitecture(raw, file);
}

export function isEncoderConfig({ model_type: type }: RawConfig): boolean {
  return typeof type === 'string' && Object.hasOwn(ENCODERS, type);
}

/** undefined of a config that is no encoder's. */
export function readEncoder(raw: RawConfig, file: string, stored: ReadonlySet<string>): EncoderOptions | undefined {
  return isEncoderConfig(raw) ? ENCODERS[raw.model_type as string]!(new ConfigReader(raw, file), stored) : undefined;
}

/** The config of the text model, where others (images) are wrapped around it: what is trained, and what is written. */
export function textConfig(raw: RawConfig, file: string): RawConfig {
  return raw.model_type === 'gemma3' ? gemmaText(raw, file) : raw;
}

/** A decoder's; an encoder is refused for what it cannot do. */
export function readArchitecture(whole: RawConfig, file: string): DecoderOptions {
  const raw = textConfig(whole, file);
  const type = raw.model_type;
  const read = typeof type === 'string' && Object.hasOwn(DECODERS, type) ? DECODERS[type] : undefined;
  if (typeof type === 'string' && Object.hasOwn(ENCODERS, type)) {
    throw new InputError(
      file,
      'model_type',
      `"${type}" is an encoder: it reads text and does not write it`,
      Object.keys(DECODERS).join(', '),
    );
  }
  if (!read) {
    throw new InputError(
      file,
      'model_type',
      `${JSON.stringify(type)} is not served`,
      [...Object.keys(DECODERS), ...Object.keys(ENCODERS)].join(', '),
    );
  }
  const options = read(new ConfigReader(raw, file));
  if (options.num_attention_heads % options.num_key_value_heads !== 0) {
    throw new InputError(
      file,
      'num_key_value_heads',
      `${options.num_attention_heads} heads can't share ${options.num_key_value_heads} key-value heads`,
      'a divisor of num_attention_heads',
    );
  }
  return options;
}
