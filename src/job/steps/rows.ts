/**
 * The rows of a recipe as token ids. Where the student's vocabulary is trimmed there are two sets of them, one to one: in the
 * ids of the whole vocabulary, which the teacher and the model that is cut know and the teacher's cache is kept in; and in
 * the student's own. So one cache serves students of any vocabulary.
 */
import { Batches, evalBatchSettings, trainBatchSettings } from '../../data/batch.ts';
import { cutAgain, prepareData, type PreparedData, type PrepareOptions, type Rewritten } from '../../data/prepare.ts';
import type { Row } from '../../data/row.ts';
import { hashOfRows, type TokenizedRow } from '../../data/tokenize.ts';
import { InputError } from '../../formats/input-error.ts';
import { openJsonObject } from '../../formats/json-file.ts';
import { loadTokenizer, type Tokenizer } from '../../models/tokenizer.ts';
import { namedIds, newIds, TokenUse, trimFolder, type KeptTokens } from '../../models/trim-vocabulary.ts';
import type { Recipe } from '../../recipe/schema.ts';
import type { RecipeContext } from '../context.ts';
import { studentEncoder } from './student-encoder.ts';
import { studentFolder } from './student-tokenizer.ts';
import { baseOf } from './student.ts';

export interface RunData {
  readonly prepared: PreparedData;
  readonly tokenizer: Tokenizer;
  readonly train: Batches;
  readonly eval: Batches;
}

export interface RunRows {
  /** In the ids of the whole vocabulary. */
  readonly data: RunData;
  /** In the student's: the same where nothing is trimmed. */
  readonly own: RunData;
  readonly vocabulary?: KeptTokens;
}

interface RowsOptions extends Pick<PrepareOptions, 'onProgress'> {
  readonly rewrite?: (rows: readonly Row[], tokenizer: Tokenizer, file: string) => Promise<Rewritten>;
}

/** @param context with the vocabulary where that is known already */
export async function rowsOf(context: RecipeContext, { onProgress, rewrite }: RowsOptions = {}): Promise<RunRows> {
  const { recipe, sources } = context;
  const folder = await studentFolder(context);
  const tokenizer = await loadTokenizer(folder);
  const encoder = await studentEncoder(context);
  const trims = recipe.student.compress?.vocabulary === 'data';
  const use = trims && !context.vocabulary ? await TokenUse.of(folder, tokenizer) : undefined;
  const source = await sources.file('data.source', recipe.data.source);
  const { seed } = recipe;
  const whole = await prepareData(source, recipe.data, tokenizer, seed, {
    encoder,
    onProgress,
    ...(rewrite && { rewrite: (rows) => rewrite(rows, tokenizer, source.name) }),
  });
  if (!trims) {
    const data = { prepared: whole, tokenizer, ...batchesOf(whole, tokenizer, recipe) };
    return { data, own: data };
  }
  const vocabulary = context.vocabulary ?? use!.kept(await idsOfConfigs(context));
  const trimmed = await loadTokenizer(trimFolder(folder, vocabulary));
  const cut = await cutAgain(whole, recipe.data, trimmed, seed, source.name, { encoder, onProgress });
  refuseOtherwise(whole, cut, vocabulary, source.name);
  // Masking puts tokens of the vocabulary at random places; those of the student's own are none that had to stay for it.
  const shared = whole.masked ? await inWhole(cut, vocabulary) : whole;
  return {
    data: { prepared: shared, tokenizer, ...batchesOf(shared, tokenizer, recipe) },
    own: { prepared: cut, tokenizer: trimmed, ...batchesOf(cut, trimmed, recipe) },
    vocabulary,
  };
}

export function batchesOf(
  prepared: Pick<PreparedData, 'train' | 'eval'>,
  tokenizer: Pick<Tokenizer, 'pad_token_id'>,
  recipe: Recipe,
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

async function idsOfConfigs(context: RecipeContext): Promise<number[]> {
  const { config, folder } = (await baseOf(context)).model;
  return [...namedIds(config), ...namedIds((await openJsonObject(folder, 'generation_config.json')) ?? {})];
}

/** The proof that a trimmed tokenizer cuts these rows as the whole one does. */
function refuseOtherwise(whole: PreparedData, cut: PreparedData, vocabulary: KeptTokens, file: string): void {
  const ids = newIds(vocabulary);
  const isSame = (before: TokenizedRow, after: TokenizedRow): boolean =>
    before.input_ids.length === after.input_ids.length &&
    before.input_ids.every((_, i) => {
      const counts = before.labels[i] !== -100;
      return counts === (after.labels[i] !== -100) && ids[tokenAt(before, i)] === tokenAt(after, i);
    });
  for (const side of ['train', 'eval'] as const) {
    const other = whole[side].findIndex((row, i) => !isSame(row, cut[side][i]!));
    if (other < 0) continue;
    throw new InputError(
      file,
      `row ${whole[side][other]!.index + 1}`,
      'would be cut into other tokens by the trimmed vocabulary',
      'student.compress.vocabulary "all"',
    );
  }
}

/** What the text says there, masked or not. */
const tokenAt = ({ input_ids, labels }: TokenizedRow, i: number): number =>
  labels[i] === -100 ? input_ids[i]! : labels[i]!;

async function inWhole(prepared: PreparedData, { kept }: KeptTokens): Promise<PreparedData> {
  const whole = (ids: Int32Array): Int32Array => ids.map((id) => (id === -100 ? id : kept[id]!));
  const moved = (rows: readonly TokenizedRow[]): TokenizedRow[] =>
    rows.map(({ index, input_ids, labels }) => ({ index, input_ids: whole(input_ids), labels: whole(labels) }));
  const [train, evaluated] = [moved(prepared.train), moved(prepared.eval)];
  return { ...prepared, train, eval: evaluated, hash: await hashOfRows([...train, ...evaluated]) };
}
