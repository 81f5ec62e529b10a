/**
 * Parameters by the names that transformers gives them, however a file spells them: GPT-2's first checkpoints leave out
 * the model's own prefix, BERT's call the parameters of norms as TensorFlow did.
 */
import type { TensorFile } from '../formats/tensor-file.ts';

/** The name of a stored tensor in transformers' model with a head, by `model_type`; absent: as stored. */
const RENAMED: Readonly<Record<string, (stored: string) => string>> = {
  gpt2: (stored) => (/^(transformer|lm_head)\./.test(stored) ? stored : `transformer.${stored}`),
  bert: (stored) =>
    stored.replace(/LayerNorm\.gamma$/, 'LayerNorm.weight').replace(/LayerNorm\.beta$/, 'LayerNorm.bias'),
  // the text model within the one that reads pictures, as transformers 5 and as the hub's files name it
  gemma3: (stored) =>
    stored.replace(/^(?:model\.language_model\.|language_model\.model\.)/, 'model.').replace(/^language_model\./, ''),
};

/** The same file under these names. */
export function underHubNames<T extends TensorFile>(file: T, model_type: unknown): T {
  const rename = typeof model_type === 'string' && Object.hasOwn(RENAMED, model_type) && RENAMED[model_type];
  if (!rename) return file;
  const stored = new Map([...file.tensors.keys()].map((name) => [rename(name), name]));
  const tensors = new Map([...stored].map(([name, as]) => [name, file.tensors.get(as)!]));
  return {
    ...file,
    tensors,
    read: (name: string) => file.read(stored.get(name) ?? name),
    readF32: (name: string) => file.readF32(stored.get(name) ?? name),
  };
}
