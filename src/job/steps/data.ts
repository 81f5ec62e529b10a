/**
 * Step 1: the rows, as token ids of the student's tokenizer. It is done anew in every sitting, as it takes seconds; that a
 * run goes on with the very same ids is checked by their hash.
 */
import { Batches, evalBatchSettings, trainBatchSettings } from '../../data/batch.ts';
import { prepareData, type PreparedData } from '../../data/prepare.ts';
import { InputError } from '../../formats/input-error.ts';
import type { Tokenizer } from '../../models/tokenizer.ts';
import type { ActiveRun } from '../active-run.ts';
import { studentEncoder } from './student-encoder.ts';
import { studentTokenizer } from './student-tokenizer.ts';
import { writeAnswers } from './write-answers.ts';

/** The rows as the teacher answered them, for other runs and other tools. */
const ANSWERS = 'answers.jsonl';

export interface RunData {
  readonly prepared: PreparedData;
  readonly tokenizer: Tokenizer;
  readonly train: Batches;
  readonly eval: Batches;
}

export async function readData(run: ActiveRun): Promise<RunData> {
  const { recipe, sources } = run;
  const tokenizer = await studentTokenizer(run);
  const encoder = await studentEncoder(run);
  const source = await sources.file('data.source', recipe.data.source);
  const { answers } = recipe.distill;
  const prepared = await prepareData(source, recipe.data, tokenizer, recipe.seed, {
    encoder,
    onProgress: async (done, of) => {
      run.progress('data', done, of, 'rows');
      await run.breathe();
    },
    ...(answers && { rewrite: (rows) => writeAnswers(run, answers, rows, tokenizer, source.name) }),
  });
  if (answers) await run.outlet.write(ANSWERS, jsonLines(prepared.rows));
  refuseChanged(run, 'rows as token ids', prepared.hash, source.name);
  refuseChanged(run, 'tokenizer', tokenizer.hash, `${recipe.student.model}/tokenizer.json`);
  const { kept, read, cut, train_rows, eval_rows, tokens } = prepared.report;
  run.progress('data', read, read, 'rows');
  run.emit({ kind: 'fact', step: 'data', facts: { rows: kept, read, cut, train_rows, eval_rows, tokens } });
  await run.find('data', prepared.report);
  return { prepared, tokenizer, ...batchesOf(prepared, tokenizer, recipe) };
}

export function batchesOf(
  prepared: Pick<PreparedData, 'train' | 'eval'>,
  tokenizer: Pick<Tokenizer, 'pad_token_id'>,
  recipe: ActiveRun['recipe'],
): { train: Batches; eval: Batches } {
  const { data, training, seed } = recipe;
  const rest = {
    shuffle: data.shuffle,
    seed,
    packing: data.packing,
    max_length: data.max_length,
    pad_token_id: tokenizer.pad_token_id,
  };
  return {
    train: new Batches(prepared.train, trainBatchSettings(training, rest)),
    eval: new Batches(prepared.eval, evalBatchSettings(training.per_device_eval_batch_size, rest)),
  };
}

/** A run goes on with what it began with, or not at all. */
function refuseChanged(run: ActiveRun, what: string, hash: string, file: string): void {
  const before = run.facts.hashes[what];
  if (before !== undefined && before !== hash) {
    throw new InputError(
      file,
      '',
      `has changed since this run began (${what})`,
      'the file it began with, or a new run',
    );
  }
  run.hash(what, hash);
}

const jsonLines = (rows: readonly unknown[]): Uint8Array =>
  new TextEncoder().encode(rows.map((row) => `${JSON.stringify(row)}\n`).join(''));
