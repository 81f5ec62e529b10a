/** Teacher and student share a vocabulary; those padded to different sizes are one where their tokenizers agree. */
import { readAll, type FileSource } from '../../formats/byte-source.ts';
import { InputError } from '../../formats/input-error.ts';
import { loadTokenizer, type Tokenizer } from '../../models/tokenizer.ts';

/** @param model its name, its folder and the rows of its head */
export async function refuseOtherVocabulary(
  model: { readonly name: string; readonly folder: FileSource; readonly vocab_size: number },
  tokenizer: Tokenizer,
): Promise<void> {
  const source = await model.folder.open('tokenizer.json');
  if (!source) {
    // A lone weights file: its size is all there is to go by.
    if (model.vocab_size >= tokenizer.vocab_size) return;
    throw new InputError(
      model.name,
      'vocab_size',
      `is ${model.vocab_size}`,
      `the student's ${tokenizer.vocab_size} tokens: teacher and student share a vocabulary`,
    );
  }
  const digest = await crypto.subtle.digest('SHA-256', await readAll(source));
  const hash = Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, '0')).join('');
  if (hash === tokenizer.hash) return;
  const theirs = await loadTokenizer(model.folder);
  if (tokenizer.vocab_size > model.vocab_size) {
    throw new InputError(
      model.name,
      'vocab_size',
      `is ${model.vocab_size}, and the student's tokenizer has ${tokenizer.vocab_size} tokens`,
      'a teacher that has a row for each token of the student, those of student.add_tokens too',
    );
  }
  const shared = Math.min(theirs.vocab_size, tokenizer.vocab_size);
  for (let id = 0; id < shared; id++) {
    if (theirs.token(id) === tokenizer.token(id)) continue;
    throw new InputError(
      source.name,
      `token ${id}`,
      `is ${JSON.stringify(theirs.token(id))}, the student's is ${JSON.stringify(tokenizer.token(id))}`,
      'a teacher with the tokenizer of the student',
    );
  }
}
