/**
 * Step 1: the rows, as token ids. It is done anew in every sitting, as it takes seconds; that a run goes on with the very
 * same ids is checked by their hash. Which tokens of the vocabulary stay is kept.
 */
import { InputError } from '../../formats/input-error.ts';
import type { Keep } from '../../formats/keep.ts';
import type { KeptTokens } from '../../models/trim-vocabulary.ts';
import type { ActiveRun } from '../active-run.ts';
import { rowsOf, type RunRows } from './rows.ts';
import { writeAnswers } from './write-answers.ts';

export type { RunData } from './rows.ts';

/** The rows as the teacher answered them, for other runs and other tools. */
const ANSWERS = 'answers.jsonl';
export const VOCABULARY = 'vocabulary';
const KEPT = 'kept.json';

export async function readData(run: ActiveRun): Promise<RunRows> {
  const { recipe } = run;
  const { answers } = recipe.distill;
  run.vocabulary = await keptVocabulary(run.keep(VOCABULARY));
  const found = await rowsOf(run, {
    onProgress: async (done, of) => {
      run.progress('data', done, of, 'rows');
      await run.breathe();
    },
    ...(answers && { rewrite: (rows, tokenizer, file) => writeAnswers(run, answers, rows, tokenizer, file) }),
  });
  const { data, vocabulary } = found;
  const { prepared, tokenizer } = data;
  if (answers) await run.outlet.write(ANSWERS, jsonLines(prepared.rows));
  refuseChanged(run, 'rows as token ids', prepared.hash, recipe.data.source);
  refuseChanged(run, 'tokenizer', tokenizer.hash, `${recipe.student.model}/tokenizer.json`);
  if (vocabulary && !run.vocabulary) {
    const bytes = new TextEncoder().encode(JSON.stringify(vocabulary));
    await run.keep(VOCABULARY).put([{ key: KEPT, bytes }], { durable: true });
    run.vocabulary = vocabulary;
  }
  const { kept, read, cut, train_rows, eval_rows, tokens, without_thought } = prepared.report;
  run.progress('data', read, read, 'rows');
  const facts = { rows: kept, read, cut, train_rows, eval_rows, tokens, ...(without_thought && { without_thought }) };
  run.emit({ kind: 'fact', step: 'data', facts });
  const left = vocabulary && { vocabulary: { kept: vocabulary.kept.length, of: vocabulary.of } };
  await run.find('data', { ...prepared.report, ...left });
  return found;
}

/** @param keep of a run's area `vocabulary` */
export async function keptVocabulary(keep: Keep): Promise<KeptTokens | undefined> {
  const bytes = await keep.get(KEPT);
  return bytes && (JSON.parse(new TextDecoder().decode(bytes)) as KeptTokens);
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
