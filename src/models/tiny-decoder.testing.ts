/** A decoder of a few thousand random numbers with a byte-level BPE tokenizer learned from texts, as a folder in memory. */
import { noise } from '../engine/testing.ts';
import { MemorySource, type FileSource } from '../formats/byte-source.ts';
import { writeSafetensors } from '../formats/safetensors.ts';
import { readArchitecture } from './architectures/index.ts';
import { baseParameters } from './model.ts';
import { BYTE_OF_CHAR } from './tokenizer.ts';

export const END = '<|end|>';

/** @param padding rows of the model beyond its tokens, as many of the hub's models have them */
export function tinyDecoderFolder(
  name: string,
  texts: readonly string[],
  { merges = 60, padding = 0, tied = true, seed = 1 } = {},
): FileSource {
  const tokenizer = byteLevelBpe(texts, merges);
  const tokens = Object.keys(tokenizer.model.vocab).length + 1;
  const config = {
    ...{ model_type: 'llama', vocab_size: tokens + padding, hidden_size: 32, intermediate_size: 64 },
    ...{ num_hidden_layers: 2, num_attention_heads: 2, max_position_embeddings: 128, tie_word_embeddings: tied },
    ...{ bos_token_id: tokens - 1, eos_token_id: [tokens - 1], pad_token_id: -1 },
  };
  const tensors = [...baseParameters(readArchitecture(config, 'config.json'))].map(([weight, shape], i) => {
    const sizes = shape as number[];
    const values = noise(
      sizes.reduce((a, b) => a * b, 1),
      seed + i,
    );
    const data = Float32Array.from(values, (value) => (sizes.length === 1 ? 1 + value / 10 : value / 4));
    return { name: weight, dtype: 'F32' as const, shape: sizes, data };
  });
  const json = (value: object): Uint8Array<ArrayBuffer> => new TextEncoder().encode(JSON.stringify(value));
  const files: Readonly<Record<string, Uint8Array<ArrayBuffer>>> = {
    'config.json': json(config),
    'generation_config.json': json({ eos_token_id: tokens - 1, suppress_tokens: [0, tokens - 2, tokens - 1] }),
    'model.safetensors': writeSafetensors(tensors),
    'tokenizer.json': json(tokenizer),
    'tokenizer_config.json': json({ eos_token: END, added_tokens_decoder: { [tokens - 1]: { content: END } } }),
    'merges.txt': json({}),
  };
  return {
    name,
    open: async (path) => (Object.hasOwn(files, path) ? new MemorySource(`${name}/${path}`, files[path]!) : undefined),
    list: async () => Object.keys(files),
  };
}

export function byteLevelBpe(texts: readonly string[], count: number) {
  const characters = [...BYTE_OF_CHAR.keys()];
  const ofByte = new Map([...BYTE_OF_CHAR].map(([character, byte]) => [byte, character]));
  const bytes = new TextEncoder();
  const words = texts
    .flatMap((text) => text.match(/ ?\S+/g) ?? [])
    .map((word) => Array.from(bytes.encode(word), (byte) => ofByte.get(byte)!));
  const merges: [string, string][] = [];
  while (merges.length < count) {
    const seen = new Map<string, number>();
    for (const word of words) {
      for (let i = 0; i + 1 < word.length; i++) {
        const pair = JSON.stringify([word[i], word[i + 1]]);
        seen.set(pair, (seen.get(pair) ?? 0) + 1);
      }
    }
    const best = [...seen].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1))[0];
    if (!best) break;
    const [left, right] = JSON.parse(best[0]) as [string, string];
    merges.push([left, right]);
    for (const word of words) {
      for (let i = 0; i + 1 < word.length; i++) {
        if (word[i] === left && word[i + 1] === right) word.splice(i, 2, left + right);
      }
    }
  }
  const tokens = [...new Set([...characters, ...merges.map(([left, right]) => left + right)])];
  const byteLevel = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true };
  return {
    version: '1.0',
    normalizer: null,
    pre_tokenizer: byteLevel,
    post_processor: null,
    decoder: byteLevel,
    added_tokens: [
      {
        ...{ id: tokens.length, content: END, special: true },
        ...{ single_word: false, lstrip: false, rstrip: false, normalized: false },
      },
    ],
    model: {
      type: 'BPE',
      ignore_merges: false,
      vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
      merges,
    },
  };
}
