/**
 * What teacher and student write for the same unseen prompts, as training goes on: the first rows of evaluation. The
 * teacher's words are taken once and kept.
 */
import type { Device } from '../../engine/run/device.ts';
import type { ActiveRun } from '../active-run.ts';
import { generatorFor, endTokens, questionOf, type RowQuestion } from './answers.ts';
import type { RunData } from './data.ts';
import type { DeviceModel } from './device-model.ts';
import type { ModelOptions } from '../../models/architectures/index.ts';
import { countParameters, type Model } from '../../models/model.ts';

const SAMPLES = 2;
const LONGEST = 96;
/** Parameters beyond which a software adapter takes seconds for a token: nobody waits for samples there. */
const MOST_IN_SOFTWARE = 2e7;
/** Milliseconds that the samples of one moment may take; what is written by then is shown. */
const PATIENCE = 10_000;
const TEACHER_SAID = 'teacher-samples.json';

/** Of the rows that evaluate, else of those that train; none for an encoder. */
export function sampleQuestions(data: RunData): RowQuestion[] {
  const { prepared, tokenizer } = data;
  if (prepared.masked) return []; // an encoder writes nothing
  const rows = prepared.eval.length > 0 ? prepared.eval : prepared.train;
  const questions: RowQuestion[] = [];
  for (const { index } of rows) {
    const question = questionOf(prepared.rows[index]!, tokenizer);
    if (question) questions.push(question);
    if (questions.length === SAMPLES) break;
  }
  return questions;
}

export async function writeSamples(
  device: Device,
  on: DeviceModel,
  of: Pick<Model<ModelOptions>, 'config' | 'folder' | 'parameters'>,
  data: RunData,
  questions: readonly RowQuestion[],
): Promise<string[]> {
  const slow = device.adapter.software && countParameters(of.parameters) > MOST_IN_SOFTWARE;
  if (questions.length === 0 || slow) return [];
  const generator = await generatorFor(device, on, questions, LONGEST);
  const began = Date.now();
  try {
    const answers = await generator.generate(
      questions.map(({ input_ids }) => input_ids.slice(-generator.shape.prompt)),
      {
        temperature: 0,
        top_p: 1,
        seed: 0,
        max_new_tokens: LONGEST,
        eos_token_ids: await endTokens(of, data.tokenizer),
        onTokens: () => Date.now() - began > PATIENCE,
      },
    );
    return answers.map((ids) => data.tokenizer.decode(ids, { skip_special_tokens: true }));
  } finally {
    generator.free();
  }
}

export async function keepTeacherSamples(run: ActiveRun, texts: readonly string[]): Promise<void> {
  const bytes = new TextEncoder().encode(JSON.stringify(texts));
  await run.keep('data').put([{ key: TEACHER_SAID, bytes }]);
}

export async function teacherSamples(run: ActiveRun): Promise<string[]> {
  const bytes = await run.keep('data').get(TEACHER_SAID);
  return bytes ? (JSON.parse(new TextDecoder().decode(bytes)) as string[]) : [];
}
