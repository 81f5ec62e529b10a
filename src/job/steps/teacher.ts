/**
 * Step 2: what the teacher says about every row, into the cache, once. An interrupted pass goes on at the row where it
 * stopped; a whole cache is not made again, and its teacher is not even loaded.
 */
import type { Batch } from '../../data/batch.ts';
import { Batches, evalBatchSettings } from '../../data/batch.ts';
import { countedPositions, type TokenizedRow } from '../../data/tokenize.ts';
import { readAll } from '../../formats/byte-source.ts';
import { InputError } from '../../formats/input-error.ts';
import type { Keep } from '../../formats/keep.ts';
import {
  createCache,
  openCache,
  type CacheRow,
  type LogitCache,
  type WritableLogitCache,
} from '../../formats/logit-cache.ts';
import { openCacheFile } from '../../formats/logit-cache-file.ts';
import { countParameters, openModel, type Model } from '../../models/model.ts';
import { loadTokenizer, type Tokenizer } from '../../models/tokenizer.ts';
import { checkTemperature } from '../../recipe/parse.ts';
import type { Teacher } from '../../recipe/schema.ts';
import { EngineTeacher, type TeacherLogits } from '../../teacher/capture.ts';
import type { ActiveRun } from '../active-run.ts';
import { CacheWriter } from './cache-writer.ts';
import type { RunData } from './data.ts';
import { endpointCache } from './endpoint.ts';
import { hashedWeights } from './hashed-model.ts';
import { teacherOnDevice } from './device-model.ts';
import { keepTeacherSamples, sampleQuestions, writeSamples } from './samples.ts';

type EngineTeacherRecipe = Extract<Teacher, { kind: 'engine' }>;

const WEIGHTS = "teacher's weights";

/** undefined where the recipe has no teacher, or its objective needs none. */
export async function cacheTeacher(run: ActiveRun, data: RunData): Promise<LogitCache | undefined> {
  const { teacher, distill } = run.recipe;
  if (teacher.kind === 'none' || distill.objective === 'none') {
    await run.find('teacher', { kind: teacher.kind });
    return undefined;
  }
  const cache = teacher.kind === 'cache' ? await givenCache(run, data) : await ownCache(run, data);
  const kept = Object.fromEntries(cache.header.temperatures.map((t) => [String(t), cache.massKept(t)]));
  run.emit({
    kind: 'fact',
    step: 'teacher',
    facts: { cache_bytes: cache.bytes, positions: cache.positions, k: cache.header.k },
  });
  await run.find('teacher', {
    ...run.facts.found.teacher,
    kind: teacher.kind,
    cache_bytes: cache.bytes,
    mass_kept: kept,
  });
  return cache;
}

async function givenCache(run: ActiveRun, data: RunData): Promise<LogitCache> {
  const { recipe, sources } = run;
  const source = await sources.file('teacher.source', (recipe.teacher as { source: string }).source);
  const cache = await openCacheFile(source, {
    tokenizer_hash: data.tokenizer.hash,
    dataset_hash: data.prepared.hash,
  });
  checkTemperature(recipe, cache.header.temperatures, run.recipeFile);
  const rows = data.prepared.train.length + data.prepared.eval.length;
  if (cache.rows < rows) {
    throw new InputError(source.name, '', `holds ${cache.rows} of ${rows} rows`, 'a cache that was finished');
  }
  return cache;
}

async function ownCache(run: ActiveRun, data: RunData): Promise<LogitCache> {
  const { recipe, sources } = run;
  const keep = undamaged(run.keep('cache'));
  const rows = [...data.prepared.train, ...data.prepared.eval];
  const whole = await openCache(keep, { tokenizer_hash: data.tokenizer.hash, dataset_hash: data.prepared.hash });
  if (whole?.rows === rows.length) {
    run.progress('teacher', rows.length, rows.length, 'rows');
    return whole;
  }
  if (recipe.teacher.kind === 'endpoint') return endpointCache(run, data, rows, keep);
  const teacher = recipe.teacher as EngineTeacherRecipe;
  const model = await openModel(await sources.model('teacher.model', teacher.model, teacher.revision));
  await refuseOtherVocabulary(model, data.tokenizer);
  const { vocab_size } = model.options;
  if (recipe.distill.k > vocab_size) {
    const allowed = `at most the ${vocab_size} tokens of the teacher's vocabulary`;
    throw new InputError(run.recipeFile, 'distill.k', `is ${recipe.distill.k}`, allowed);
  }

  const device = await run.device();
  const { model: hashed, digest } = await hashedWeights(model);
  const on = await teacherOnDevice(run, device, hashed, (bytes, of) => run.progress('teacher', bytes, of, 'bytes'));
  const hash = digest();
  run.hash(WEIGHTS, hash);
  const temperatures = [...new Set([1, recipe.distill.temperature])];
  const cache = await createCache(keep, {
    teacher: { identity: `${teacher.model}@${teacher.revision}`, hash },
    tokenizer_hash: data.tokenizer.hash,
    dataset_hash: data.prepared.hash,
    vocab_size,
    k: recipe.distill.k,
    temperatures,
    entries: 'topk',
    dtype: 'f32',
  });
  const engine = new EngineTeacher(device, on.options, on.tensors, {
    k: recipe.distill.k,
    temperatures,
    adapter: on.adapter,
  });
  try {
    const seconds = await ask(run, engine, cache, rows, data.tokenizer);
    const tokens = rows.reduce((sum, row) => sum + row.input_ids.length, 0);
    await run.find('teacher', {
      kind: 'engine',
      parameters: countParameters(model.parameters),
      tokens_per_second: seconds > 0 ? tokens / seconds : undefined,
    });
    await keepTeacherSamples(run, await writeSamples(device, on, model, data, sampleQuestions(data)));
  } finally {
    engine.free();
    on.free();
  }
  return cache;
}

/** Asks about the rows that the cache lacks. @returns seconds for all rows, by the rate of those */
async function ask(
  run: ActiveRun,
  engine: EngineTeacher,
  cache: WritableLogitCache,
  rows: readonly TokenizedRow[],
  tokenizer: Tokenizer,
): Promise<number> {
  const { training, data } = run.recipe;
  // The same batches in every sitting, so that a row is computed beside the same neighbours.
  const batches = new Batches(
    rows,
    evalBatchSettings(training.per_device_eval_batch_size, {
      packing: false,
      max_length: data.max_length,
      pad_token_id: tokenizer.pad_token_id,
    }),
  );
  const begun = cache.rows;
  const writer = new CacheWriter(run, cache, rows.length);
  for (const batch of batches.epoch()) {
    const missing = batch.documents.filter(({ row }) => row >= begun);
    if (missing.length === 0) continue;
    await run.breathe();
    const logits = await engine.logits(batch);
    await writer.add(missing.map(({ row, at }) => cacheRow(rows[row]!, batch, at, logits, cache.header)));
  }
  await writer.flush();
  return writer.seconds();
}

/** Of the logits at every place those whose next token counts. */
function cacheRow(
  { labels }: TokenizedRow,
  batch: Batch,
  at: number,
  logits: TeacherLogits,
  { k, temperatures }: { k: number; temperatures: readonly number[] },
): CacheRow {
  const positions = countedPositions(labels);
  const row: CacheRow = {
    positions: Int32Array.from(positions),
    ids: new Int32Array(positions.length * k),
    logits: new Float32Array(positions.length * k),
    log_z: new Float32Array(positions.length * temperatures.length),
  };
  positions.forEach((t, i) => {
    const place = at * batch.length + t;
    row.ids.set(logits.ids.subarray(place * k, (place + 1) * k), i * k);
    row.logits.set(logits.logits.subarray(place * k, (place + 1) * k), i * k);
    const n = temperatures.length;
    row.log_z.set(logits.log_z.subarray(place * n, (place + 1) * n), i * n);
  });
  return row;
}

/** Vocabularies padded to different sizes are one where their tokenizers agree. */
async function refuseOtherVocabulary(model: Model, tokenizer: Tokenizer): Promise<void> {
  const source = await model.folder.open('tokenizer.json');
  if (!source) {
    // A lone weights file: its size is all there is to go by.
    if (model.options.vocab_size >= tokenizer.vocab_size) return;
    throw new InputError(
      model.name,
      'vocab_size',
      `is ${model.options.vocab_size}`,
      `the student's ${tokenizer.vocab_size} tokens: teacher and student share a vocabulary`,
    );
  }
  const digest = await crypto.subtle.digest('SHA-256', await readAll(source));
  const hash = Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, '0')).join('');
  if (hash === tokenizer.hash) return;
  const theirs = await loadTokenizer(model.folder);
  if (tokenizer.vocab_size > model.options.vocab_size) {
    throw new InputError(
      model.name,
      'vocab_size',
      `is ${model.options.vocab_size}, and the student's tokenizer has ${tokenizer.vocab_size} tokens`,
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

/** A block that does not read back is a block that is not there: the pass goes on before it. */
function undamaged(keep: Keep): Keep {
  return {
    get: (key) =>
      keep.get(key).catch((error: Error) => {
        if (error.name === 'Damaged') return undefined;
        throw error;
      }),
    put: (entries, options) => keep.put(entries, options),
    keys: (prefix) => keep.keys(prefix),
    delete: (keys) => keep.delete(keys),
  };
}
