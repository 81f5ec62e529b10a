/**
 * A teacher as a folder with an ONNX file, as transformers.js takes it: run by ONNX Runtime on the CPU, its logits into the
 * cache that a teacher in the engine fills. It serves models that the engine does not compute, as long as they are small.
 */
import { createSHA256 } from 'hash-wasm';
import type { TokenizedRow } from '../../data/tokenize.ts';
import { ONNX_FILES } from '../../export/export-model.ts';
import { DecoderSession, type OnnxFile } from '../../export/verify/session.ts';
import { readAll, type FileSource } from '../../formats/byte-source.ts';
import { InputError } from '../../formats/input-error.ts';
import type { Keep } from '../../formats/keep.ts';
import { createCache, type LogitCache } from '../../formats/logit-cache.ts';
import { summarizeOnnx } from '../../formats/onnx-summary.ts';
import { drawnOrLargest } from '../../recipe/derived.ts';
import type { OnnxDtype, Teacher } from '../../recipe/schema.ts';
import { OnnxTeacher } from '../../teacher/onnx.ts';
import type { ActiveRun } from '../active-run.ts';
import { askAll } from './ask-teacher.ts';
import type { RunData } from './data.ts';
import { refuseOtherVocabulary } from './same-vocabulary.ts';

type OnnxRecipe = Extract<Teacher, { kind: 'onnx' }>;

const fileOf = (dtype: OnnxDtype): string => `onnx/${ONNX_FILES[dtype]}`;
/** WebAssembly addresses 4 GB, and the file lies there beside what is computed. */
const MOST_BYTES = 2e9;

export async function onnxCache(
  run: ActiveRun,
  data: RunData,
  rows: readonly TokenizedRow[],
  keep: Keep,
): Promise<LogitCache> {
  const { tokenizer, prepared } = data;
  const teacher = run.recipe.teacher as OnnxRecipe;
  const { k, temperature } = run.recipe.distill;
  const folder = await run.sources.model('teacher.model', teacher.model, teacher.revision);
  const { file, hash } = await readOnnx(run, folder, fileOf(teacher.dtype));
  run.hash("teacher's ONNX file", hash);
  const session = await openSession(run, file, `${folder.name}/${fileOf(teacher.dtype)}`);
  try {
    const logitsOf = async (input_ids: readonly number[]): Promise<Float32Array> => {
      const attention_mask = [input_ids.map(() => 1)];
      return (await session.run({ input_ids: [input_ids], attention_mask })).logits;
    };
    const vocab_size = (await logitsOf([0, 1])).length / 2;
    if (vocab_size === 0) {
      throw new InputError(
        folder.name,
        fileOf(teacher.dtype),
        'gives no logits',
        'a model that writes text (a decoder)',
      );
    }
    await refuseOtherVocabulary({ name: teacher.model, folder, vocab_size }, tokenizer);
    if (k > vocab_size) {
      const allowed = `at most the ${vocab_size} tokens of the teacher's vocabulary`;
      throw new InputError(run.recipeFile, 'distill.k', `is ${k}`, allowed);
    }
    const temperatures = [...new Set([1, temperature])];
    const entries = drawnOrLargest(run.recipe);
    const cache = await createCache(keep, {
      teacher: { identity: `${teacher.model}@${teacher.revision} (${fileOf(teacher.dtype)})`, hash },
      tokenizer_hash: tokenizer.hash,
      dataset_hash: prepared.hash,
      vocab_size,
      k,
      temperatures,
      entries,
      dtype: teacher.dtype,
    });
    const asked = new OnnxTeacher(logitsOf, vocab_size, { k, temperatures, entries });
    const seconds = await askAll(run, asked, cache, rows, data);
    const tokens = rows.reduce((sum, row) => sum + row.input_ids.length, 0);
    await run.find('teacher', { kind: 'onnx', tokens_per_second: seconds > 0 ? tokens / seconds : undefined });
    return cache;
  } finally {
    await session.close();
  }
}

/** The file with what lies beside it, and the SHA-256 over all of it. */
async function readOnnx(run: ActiveRun, folder: FileSource, path: string): Promise<{ file: OnnxFile; hash: string }> {
  const source = await folder.open(path);
  if (!source) {
    const there = Object.values(ONNX_FILES).join(', ');
    throw new InputError(
      folder.name,
      path,
      'is missing',
      `a folder as transformers.js takes it, with one of onnx/{${there}}`,
    );
  }
  const beside = path.slice(0, path.lastIndexOf('/') + 1);
  const { external } = await summarizeOnnx(source);
  const parts = await Promise.all(
    external.map(async (name) => {
      // A location comes from the file: only a name is one.
      const part = /^[\w.-]+$/.test(name) ? await folder.open(beside + name) : undefined;
      if (!part) throw new InputError(folder.name, beside + name, 'is missing', `the file that ${path} names`);
      return { name, part };
    }),
  );
  const bytes = parts.reduce((sum, { part }) => sum + part.size, source.size);
  if (bytes > MOST_BYTES) {
    throw new InputError(
      folder.name,
      path,
      `takes ${(bytes / 1e9).toFixed(1)} GB, too much for ONNX Runtime in a page`,
      `at most ${MOST_BYTES / 1e9} GB: another teacher.dtype, or the model behind a server (teacher.kind "endpoint")`,
    );
  }
  const hash = await createSHA256();
  hash.init();
  let read = 0;
  const whole = async (one: typeof source): Promise<Uint8Array<ArrayBuffer>> => {
    const content = await readAll(one);
    hash.update(content);
    run.progress('teacher', (read += content.length), bytes, 'bytes');
    return content;
  };
  const model = await whole(source);
  const files: OnnxFile['external'][number][] = [];
  for (const { name, part } of parts) files.push({ path: name, data: await whole(part) });
  return { file: { model, external: files }, hash: hash.digest('hex') };
}

async function openSession(run: ActiveRun, file: OnnxFile, name: string): Promise<DecoderSession> {
  const ort = await run.host.ort();
  try {
    return await DecoderSession.open(ort, file);
  } catch (error) {
    const said = (error instanceof Error ? error.message : String(error)).replace(/\s+/g, ' ').slice(0, 200);
    throw new InputError(name, '', `can’t be opened by ONNX Runtime (${said})`, 'an ONNX file that it runs on the CPU');
  }
}
