/** The tiny encoders of the fixtures (train/masked-lm.test.ts) as model folders with a tokenizer, in memory. */
import { readFileSync } from 'node:fs';
import { MemorySource, type FileSource } from '../../formats/byte-source.ts';
import { openSafetensors, writeSafetensors } from '../../formats/safetensors.ts';
import type { TensorFile } from '../../formats/tensor-file.ts';

export type TinyEncoder = 'bert' | 'distilbert';

/** 35 words; with the five special tokens the 40 of the fixtures' vocabulary. */
export const WORDS = Array.from({ length: 35 }, (_, i) => `w${i}`);
const SPECIAL = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]'];

export async function encoderFixture(name: TinyEncoder): Promise<TensorFile> {
  const bytes = Uint8Array.from(readFileSync(new URL(`./${name}.fixture.safetensors`, import.meta.url)));
  return openSafetensors(new MemorySource(name, bytes));
}

/** @param bare without the masked-LM head, and names without the prefix: as BertModel is published */
export async function tinyEncoderFolder(name: TinyEncoder, bare = false): Promise<FileSource> {
  const { metadata, ...file } = await encoderFixture(name);
  const weights = bare
    ? await bareWeights(file, `${name}.`)
    : Uint8Array.from(readFileSync(new URL(`./${name}.fixture.safetensors`, import.meta.url)));
  const json = (value: unknown): Uint8Array<ArrayBuffer> => new TextEncoder().encode(JSON.stringify(value));
  const files: Readonly<Record<string, Uint8Array<ArrayBuffer>>> = {
    'config.json': new TextEncoder().encode(metadata.config!),
    'model.safetensors': weights,
    'tokenizer.json': json(tokenizer()),
    'tokenizer_config.json': json({ tokenizer_class: 'BertTokenizer' }),
  };
  const folder = bare ? `./bare-${name}` : `./${name}`;
  return {
    name: folder,
    open: async (path) =>
      Object.hasOwn(files, path) ? new MemorySource(`${folder}/${path}`, files[path]!) : undefined,
  };
}

async function bareWeights(
  file: Pick<TensorFile, 'tensors' | 'readF32'>,
  prefix: string,
): Promise<Uint8Array<ArrayBuffer>> {
  const names = [...file.tensors.keys()].filter((name) => name.startsWith(prefix));
  return writeSafetensors(
    await Promise.all(
      names.map(async (name) => ({
        name: name.slice(prefix.length),
        dtype: 'F32' as const,
        shape: file.tensors.get(name)!.shape,
        data: await file.readF32(name),
      })),
    ),
  );
}

function tokenizer(): unknown {
  const tokens = [...SPECIAL, ...WORDS];
  const id = (token: string): number => tokens.indexOf(token);
  const special = (token: string): unknown => ({ SpecialToken: { id: token, type_id: 0 } });
  const sequence = (token: string): unknown => ({ id: token, ids: [id(token)], tokens: [token] });
  return {
    version: '1.0',
    added_tokens: SPECIAL.map((content) => ({
      ...{ id: id(content), content, special: true },
      ...{ single_word: false, lstrip: false, rstrip: false, normalized: false },
    })),
    normalizer: null,
    pre_tokenizer: { type: 'WhitespaceSplit' },
    post_processor: {
      type: 'TemplateProcessing',
      single: [special('[CLS]'), { Sequence: { id: 'A', type_id: 0 } }, special('[SEP]')],
      pair: [special('[CLS]'), { Sequence: { id: 'A', type_id: 0 } }, { Sequence: { id: 'B', type_id: 1 } }],
      special_tokens: { '[CLS]': sequence('[CLS]'), '[SEP]': sequence('[SEP]') },
    },
    decoder: null,
    model: {
      type: 'WordPiece',
      unk_token: '[UNK]',
      continuing_subword_prefix: '##',
      max_input_chars_per_word: 100,
      vocab: Object.fromEntries(tokens.map((token, i) => [token, i])),
    },
  };
}
