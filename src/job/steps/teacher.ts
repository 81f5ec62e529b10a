/**
 * Step 2: what the teacher says about every row, into the cache, once. An interrupted pass goes on at the row where it
 * stopped; a whole cache is not made again, and its teacher is not even loaded.
 */
import { InputError } from '../../formats/input-error.ts';
import type { Keep } from '../../formats/keep.ts';
import { createCache, openCache, type LogitCache } from '../../formats/logit-cache.ts';
import { openCacheFile } from '../../formats/logit-cache-file.ts';
import { isEncoder, type ModelOptions } from '../../models/architectures/index.ts';
import { countParameters, openAnyModel, type Model } from '../../models/model.ts';
import { drawnOrLargest } from '../../recipe/derived.ts';
import { checkEntries, checkTemperature } from '../../recipe/parse.ts';
import type { Teacher } from '../../recipe/schema.ts';
import { EngineTeacher } from '../../teacher/capture.ts';
import type { ActiveRun } from '../active-run.ts';
import { askAll } from './ask-teacher.ts';
import type { RunData } from './data.ts';
import { teacherOnDevice } from './device-model.ts';
import { endpointCache } from './endpoint.ts';
import { hashedWeights } from './hashed-model.ts';
import { onnxCache } from './onnx-teacher.ts';
import { refuseOtherVocabulary } from './same-vocabulary.ts';
import { keepTeacherSamples, sampleQuestions, writeSamples } from './samples.ts';

type EngineTeacherRecipe = Extract<Teacher, { kind: 'engine' }>;

const WEIGHTS = "teacher's weights";

/** undefined where the recipe has no teacher, or its objective needs none. */
export async function cacheTeacher(run: ActiveRun, data: RunData): Promise<LogitCache | undefined> {
  const { teacher, distill } = run.recipe;
  if (teacher.kind === 'none' || distill.objective === 'none') {
    await run.find('teacher', { ...run.facts.found.teacher, kind: teacher.kind });
    return undefined;
  }
  const cache = teacher.kind === 'cache' ? await givenCache(run, data) : await ownCache(run, data);
  const { entries, k, temperatures } = cache.header;
  run.emit({
    kind: 'fact',
    step: 'teacher',
    facts: { cache_bytes: cache.bytes, positions: cache.positions, k },
  });
  await run.find('teacher', {
    ...run.facts.found.teacher,
    kind: teacher.kind,
    cache_bytes: cache.bytes,
    ...(entries === 'sampling'
      ? { draws: k }
      : { mass_kept: Object.fromEntries(temperatures.map((t) => [String(t), cache.massKept(t)])) }),
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
  checkEntries(recipe, cache.header.entries, run.recipeFile);
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
  if (recipe.teacher.kind === 'onnx') return onnxCache(run, data, rows, keep);
  const teacher = recipe.teacher as EngineTeacherRecipe;
  const model = await openAnyModel(await sources.model('teacher.model', teacher.model, teacher.revision));
  refuseOtherKind(run, model, data);
  const { vocab_size } = model.options;
  await refuseOtherVocabulary({ name: model.name, folder: model.folder, vocab_size }, data.tokenizer);
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
  const entries = drawnOrLargest(recipe);
  const cache = await createCache(keep, {
    teacher: { identity: `${teacher.model}@${teacher.revision}`, hash },
    tokenizer_hash: data.tokenizer.hash,
    dataset_hash: data.prepared.hash,
    vocab_size,
    k: recipe.distill.k,
    temperatures,
    entries,
    dtype: 'f32',
  });
  const engine = new EngineTeacher(device, on.options, on.tensors, {
    k: recipe.distill.k,
    temperatures,
    entries,
    adapter: on.adapter,
  });
  try {
    const seconds = await askAll(run, engine, cache, rows, data);
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

/** What one predicts, the other must: the token at a place, or the next one. */
function refuseOtherKind(run: ActiveRun, { name, options }: Model<ModelOptions>, { prepared }: RunData): void {
  if (isEncoder(options) === prepared.masked) {
    if (!isEncoder(options) || options.head) return;
    throw new InputError(
      name,
      'masked-LM head',
      'there is none, so it has no logits',
      'a teacher with its head: a run of this model without a teacher and with lora: null makes and trains one',
    );
  }
  const { model } = run.recipe.student;
  throw prepared.masked
    ? new InputError(name, '', `writes text, and the student (${model}) is an encoder`, 'an encoder as the teacher')
    : new InputError(name, '', `is an encoder, and the student (${model}) writes text`, 'a teacher that writes text');
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
