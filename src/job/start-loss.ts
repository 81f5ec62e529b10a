/**
 * How much a student still knows before it has learned anything: its loss over a few of the rows that will evaluate it, and
 * that of the model it is cut from. A look before a run, so that ways of cutting can be compared; nothing is kept.
 */
import { Arena } from '../engine/run/program.ts';
import type { Device } from '../engine/run/device.ts';
import { measureImportance } from '../models/importance.ts';
import type { ModelOptions } from '../models/architectures/index.ts';
import type { Model } from '../models/model.ts';
import { loadParameters } from '../models/on-device.ts';
import { Evaluator } from '../train/evaluator.ts';
import type { RecipeContext } from './context.ts';
import type { StartLoss } from './protocol.ts';
import { samplesOf } from './steps/importance.ts';
import { batchesOf, rowsOf, type RunData } from './steps/rows.ts';
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
  const { recipe } = context;
  const { data, own, vocabulary } = await rowsOf(context);
  const lookedAt = ({ prepared: { train, eval: evaluated } }: RunData) =>
    (evaluated.length > 0 ? evaluated : train).slice(0, ROWS);

  const lossOf = async (
    { model, read }: { model: Model<ModelOptions>; read: RunData },
    look?: (on: Awaited<ReturnType<typeof loadParameters>>) => Promise<void>,
  ) => {
    const batches = batchesOf({ train: [], eval: lookedAt(read) }, read.tokenizer, recipe);
    const shapes = shapesOf(batches, recipe).eval;
    const tensors = await loadParameters(device, model);
    const arena = new Arena(device);
    const step = { options: model.options, adapter: null, trainable: () => false };
    const evaluator = await Evaluator.create(device, step, objectiveOf(recipe, undefined), shapes, tensors, arena);
    try {
      const { eval_ce } = await evaluator.evaluate([...batches.eval.epoch()], () => Promise.resolve(undefined));
      await look?.(tensors);
      return eval_ce;
    } finally {
      evaluator.free();
      arena.free();
      for (const tensor of tensors.values()) device.freeTensor(tensor);
    }
  };

  const rows = lookedAt(data).length;
  const { compress } = recipe.student;
  if (!compress) {
    onProgress(0, 1);
    return { rows, student: await lossOf({ model: (await openStudent(context)).model, read: own }) };
  }
  onProgress(0, 2);
  const { model: base, newHead } = await baseOf(context);
  let importance: RecipeContext['importance'];
  const whole = await lossOf({ model: base, read: data }, async (tensors) => {
    if (compress.init !== 'importance') return;
    importance = await measureImportance(device, base.options, tensors, samplesOf(data, newHead));
  });
  onProgress(1, 2);
  const { model } = await openStudent({ ...context, importance, vocabulary });
  return { rows, whole, student: await lossOf({ model, read: own }) };
}
