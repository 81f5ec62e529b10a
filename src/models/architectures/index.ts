/** Which architectures there are, by the `model_type` of `config.json`. A new one is a new file and a line here. */
import { InputError } from '../../formats/input-error.ts';
import { ConfigReader, type RawConfig } from '../config.ts';
import type { DecoderOptions } from '../decoder.ts';
import { gpt2, GPT2_FIELDS } from './gpt2.ts';
import { llama } from './llama.ts';
import { qwen2 } from './qwen2.ts';

const ARCHITECTURES: Readonly<Record<string, (config: ConfigReader) => DecoderOptions>> = {
  llama,
  qwen2,
  gpt2,
};

/** What config.json calls a size, for architectures with names of their own. */
const FIELDS: Readonly<Record<string, Readonly<Record<string, string>>>> = { gpt2: GPT2_FIELDS };

export function configField(model_type: unknown, name: string): string {
  return (typeof model_type === 'string' && FIELDS[model_type]?.[name]) || name;
}

export function readArchitecture(raw: RawConfig, file: string): DecoderOptions {
  const type = raw.model_type;
  const read = typeof type === 'string' && Object.hasOwn(ARCHITECTURES, type) ? ARCHITECTURES[type] : undefined;
  if (!read) {
    throw new InputError(
      file,
      'model_type',
      `${JSON.stringify(type)} is not served`,
      Object.keys(ARCHITECTURES).join(', '),
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
