/**
 * How much a student still knows before it has learned anything: its loss over a few of the rows that will evaluate it, and
 * that of the model it is cut from. A look before a run, so that ways of cutting can be compared; nothing is kept.
 */
import { prepareData } from '../data/prepare.ts';
import { Arena } from '../engine/run/program.ts';
import type { Device } from '../engine/run/device.ts';
import { measureImportance } from '../models/importance.ts';
import type { ModelOptions } from '../models/architectures/index.ts';
import type { Model } from '../models/model.ts';
import { loadParameters } from '../models/on-device.ts';
import { Evaluator } from '../train/evaluator.ts';
import type { RecipeContext } from './context.ts';
import type { StartLoss } from './protocol.ts';
import { batchesOf } from './steps/data.ts';
import { IMPORTANCE_ROWS } from './steps/importance.ts';
import { studentEncoder } from './steps/student-encoder.ts';
import { studentTokenizer } from './steps/student-tokenizer.ts';
import { baseOf, openStudent } from './steps/student.ts';
import { objectiveOf, shapesOf } from './steps/train-student.ts';

/** Rows that are looked at: enough to tell ways of cutting apart, and seconds of work. */
const ROWS = 16;

/** @param onProgress hears how many of the models are done */
export async function startLossOf(
  context: RecipeContext,
  device: Device,
  onProgress: (done: number, of: number) => void = () => undefined,
): Promise<StartLoss> {
  const { recipe, sources } = context;
  const tokenizer = await studentTokenizer(context);
  const source = await sources.file('data.source', recipe.data.source);
  const { train, eval: evaluated } = await prepareData(source, recipe.data, tokenizer, recipe.seed, {
    encoder: await studentEncoder(context),
  });
  const rows = (evaluated.length > 0 ? evaluated : train).slice(0, ROWS);
  const data = batchesOf({ train: [], eval: rows }, tokenizer, recipe);
  const shapes = shapesOf(data, recipe).eval;
  const batches = [...data.eval.epoch()];

  const lossOf = async (
    model: Model<ModelOptions>,
    look?: (on: Awaited<ReturnType<typeof loadParameters>>) => Promise<void>,
  ) => {
    const tensors = await loadParameters(device, model);
    const arena = new Arena(device);
    const step = { options: model.options, adapter: null, trainable: () => false };
    const evaluator = await Evaluator.create(device, step, objectiveOf(recipe, undefined), shapes, tensors, arena);
    try {
      const { eval_ce } = await evaluator.evaluate(batches, () => Promise.resolve(undefined));
      await look?.(tensors);
      return eval_ce;
    } finally {
      evaluator.free();
      arena.free();
      for (const tensor of tensors.values()) device.freeTensor(tensor);
    }
  };

  const { compress } = recipe.student;
  if (!compress) {
    onProgress(0, 1);
    return { rows: rows.length, student: await lossOf((await openStudent(context)).model) };
  }
  onProgress(0, 2);
  const base = await baseOf(context);
  let importance: RecipeContext['importance'];
  const whole = await lossOf(base, async (tensors) => {
    if (compress.init !== 'importance') return;
    const sequences = train.slice(0, IMPORTANCE_ROWS).map(({ input_ids }) => [...input_ids]);
    importance = await measureImportance(device, base.options, tensors, sequences);
  });
  onProgress(1, 2);
  const { model } = await openStudent({ recipe, sources, recipeFile: context.recipeFile, importance });
  return { rows: rows.length, whole, student: await lossOf(model) };
}
