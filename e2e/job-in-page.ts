/** Inside the page of job.test.ts: the worker's face, as the studio uses it, from a new run to talking with its student. */
import { proxy, wrap, type Remote } from 'comlink';
import type { JobApi, JobEvent, RunSummary } from '../src/job/protocol.ts';
import type { RecipeInput } from '../src/recipe/schema.ts';

const open = (): Remote<JobApi> =>
  wrap<JobApi>(new Worker(new URL('../workers/engine.worker.ts', import.meta.url), { type: 'module' }));

const job = open();

const recipe: RecipeInput = {
  name: 'in the page',
  student: { model: 'bundled:arithmetic', compress: { layers: [0, 3] } },
  teacher: { kind: 'engine', model: 'bundled:arithmetic' },
  data: { source: './rows.jsonl', eval_fraction: 0.25, max_length: 48, assistant_only_loss: true },
  distill: { k: 8 },
  lora: { r: 2, lora_alpha: 4, target_modules: ['q_proj'] },
  training: {
    per_device_train_batch_size: 2,
    per_device_eval_batch_size: 3,
    max_steps: 4,
    logging_steps: 1,
    save_steps: 1,
  },
  evaluate: { tasks: [{ task: 'exact_match', source: './rows.jsonl', limit: 2, max_new_tokens: 8 }] },
  export: { onnx: ['fp32'] },
};

const files = async (): Promise<Record<string, Blob>> => {
  const rows = await (await fetch('/bundled/arithmetic/rows.jsonl')).text();
  return { './rows.jsonl': new Blob([rows.split('\n').slice(0, 12).join('\n')]) };
};

export async function looks(): Promise<unknown> {
  const brought = await files();
  return { preview: await job.preview(recipe, brought), estimate: await job.estimate(recipe, brought) };
}

/** A second run of the same recipe, nothing brought: its rows are those of the first. */
export async function another(id: string): Promise<{ rows: number; kept: string[]; without: string }> {
  const { rows } = await job.preview(recipe, {}, id);
  const without = await job.preview(recipe, {}).then(
    () => 'read',
    (error: Error) => error.message,
  );
  const second = await job.create(recipe, {}, id);
  const bytes = (await job.runs()).map((run) => ({ id: run.id, bytes: run.bytes }));
  await job.remove(second.id);
  return { rows, without, kept: bytes.filter((run) => run.bytes > 500).map((run) => run.id) };
}

export const create = async (): Promise<RunSummary> => job.create(recipe, await files());
export const runs = (): Promise<RunSummary[]> => job.runs();
export const events = (id: string): Promise<JobEvent[]> => job.events(id);

/** One whose student lies at an address. */
export const createFrom = async (model: string): Promise<RunSummary> =>
  job.create({ ...recipe, name: 'from an address', student: { model }, teacher: { kind: 'none' } }, await files());

/** A sitting; asks for a pause at the first checkpoint of that step. */
export async function sit(id: string, pauseAt?: number): Promise<JobEvent[]> {
  const said: JobEvent[] = [];
  await job.run(
    id,
    proxy((event: JobEvent) => {
      said.push(event);
      if (event.kind === 'checkpoint' && event.step === pauseAt) void job.pause();
    }),
  );
  return said;
}

/** What another tab hears that wants the same run while this one works on it. */
export async function busy(id: string): Promise<{ here: JobEvent[]; there: JobEvent[] }> {
  const other = open();
  const [here, there]: [JobEvent[], JobEvent[]] = [[], []];
  let asked: Promise<void> | undefined;
  await job.run(
    id,
    proxy((event: JobEvent) => {
      here.push(event);
      asked ??= other.run(
        id,
        proxy((heard: JobEvent) => void there.push(heard)),
      );
    }),
  );
  await asked;
  return { here, there };
}

export async function written(id: string): Promise<Record<string, number>> {
  return Object.fromEntries((await job.files(id)).map(({ path, blob }) => [path, blob.size]));
}

export async function talk(id: string): Promise<unknown> {
  const answers: Record<string, { text: string; heard: number }> = {};
  const settings = { temperature: 0, top_p: 1, max_new_tokens: 6, seed: 1 };
  for (const who of ['teacher', 'start', 'student'] as const) {
    const heard: string[] = [];
    const messages = [{ role: 'user' as const, content: '12 + 34 = ?' }];
    const text = await job.chat(
      id,
      who,
      messages,
      settings,
      proxy((soFar: string) => void heard.push(soFar)),
    );
    if (heard.at(-1) !== text) throw new Error(`${who} ended with ${heard.at(-1)}, and answered ${text}`);
    answers[who] = { text, heard: heard.length };
  }
  const opened = await job.openAnswer(id, [{ role: 'user', content: '12 + 34 = ?' }], answers.student!.text);
  return { answers, next: await job.nextToken(id, '12 + 34', 3), opened };
}

/** Backed up, removed, restored: the files of the restored run. */
export async function thereAndBack(id: string): Promise<{ same: boolean; left: number; state: string }> {
  const before = JSON.stringify([await written(id), await job.events(id)]);
  const backup = await job.backup(id);
  await job.remove(id);
  const left = (await job.runs()).length;
  const restored = await job.restore(backup);
  const after = JSON.stringify([await written(restored.id), await job.events(restored.id)]);
  return { same: before === after && restored.id === id, left, state: restored.state };
}
