/** recipe ─▶ report: the steps in order. Each goes on where an earlier sitting left it. */
import type { ActiveRun } from './active-run.ts';
import type { Report } from './protocol.ts';
import { expected } from './estimate.ts';
import { rememberedSpeed } from './known-device.ts';
import { reportHtml } from './report-html.ts';
import { readData } from './steps/data.ts';
import { evaluateTasks } from './steps/evaluate.ts';
import { exportStudent, readCopied } from './steps/export.ts';
import { importanceOf } from './steps/importance.ts';
import { openStudent } from './steps/student.ts';
import { refuseTooLargeByConfig } from './steps/too-large.ts';
import { cacheTeacher } from './steps/teacher.ts';
import { trainStudent } from './steps/train-student.ts';
import { sha256 } from '../store/files.ts';

export async function drive(run: ActiveRun): Promise<Report> {
  const { recipe } = run;
  const json = new TextEncoder().encode(`${JSON.stringify(recipe, null, 2)}\n`);
  run.hash('recipe', await sha256(json));
  const device = await run.device(); // a page without a GPU says so before it reads anything

  await refuseTooLargeByConfig(run, device.limits);
  const { data, own } = await run.step('data', () => readData(run));
  run.importance = await importanceOf(run, data);
  // The student is opened before the teacher is asked: one that does not fit is refused before an hour's work.
  const student = await openStudent(run);
  await readCopied(run, student);
  const { limits, adapter } = device;
  const known = await rememberedSpeed(run.host, adapter);
  const estimate = await expected(run, data, student, { limits, software: adapter.software, known });
  run.emit({ kind: 'estimate', estimate });
  await run.outlet.write('recipe.json', json);
  const cache = await run.step('teacher', () => cacheTeacher(run, data));
  await run.step('student', async () => {
    const { parameters, trainable, layers, newHead } = student;
    const kept = layers && { layers: layers.join(' ') };
    const tokens = run.vocabulary && { tokens: run.vocabulary.kept.length, tokens_before: run.vocabulary.of };
    const head = newHead && { masked_lm_head: 'new' };
    run.emit({ kind: 'fact', step: 'student', facts: { parameters, trainable, ...kept, ...tokens, ...head } });
  });
  const trained = await run.step('train', () => trainStudent(run, own, student, cache, estimate.seconds_per_step));
  await run.step('evaluate', () => evaluateTasks(run, student, trained, { data, own }));
  await run.step('export', () => exportStudent(run, own, student, trained, cache));
  return finish(run);
}

async function finish(run: ActiveRun): Promise<Report> {
  await run.happened('done');
  const { recipe, found, history, hashes } = run.facts;
  const { adapter, data, teacher, train, evaluate, export: exported } = found;
  if (!adapter || !data || !teacher || !train || !evaluate || !exported) throw new Error('a step left no trace');
  const report: Report = {
    recipe,
    adapter,
    data,
    teacher,
    train,
    evaluate,
    export: exported,
    history,
    provenance: { stillroom: run.host.version, hashes, commits: await commitsOf(run) },
  };
  const text = new TextEncoder();
  await run.outlet.write('report.json', text.encode(`${JSON.stringify(report, null, 2)}\n`));
  await run.outlet.write('report.html', text.encode(reportHtml(report, await run.metrics())));
  return report;
}

/** As they were looked up when the models were opened, which is kept beside them. */
async function commitsOf({ recipe: { student, teacher }, sources }: ActiveRun): Promise<Record<string, string>> {
  const models = teacher.kind === 'engine' || teacher.kind === 'onnx' ? [student, teacher] : [student];
  const commits = await Promise.all(
    models.map(async ({ model, revision }) => {
      // Whoever deleted a model that a run has done with is not asked for the network again.
      const commit = await sources.commit(model, revision).catch(() => undefined);
      return commit === undefined ? [] : [[`${model}@${revision}`, commit] as const];
    }),
  );
  return Object.fromEntries(commits.flat());
}
