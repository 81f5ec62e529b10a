/**
 * Step 5: what teacher, student before and student after answer on rows that none has seen. Figures are kept one by one,
 * so that an interrupted evaluation asks only what is left.
 */
import { answerOf } from '../../data/arithmetic.ts';
import { readDataset } from '../../data/dataset.ts';
import { exactMatch, type Question } from '../../evaluate/exact-match.ts';
import type { Proportion } from '../../evaluate/interval.ts';
import type { Tokenizer } from '../../models/tokenizer.ts';
import type { Task } from '../../recipe/schema.ts';
import type { ActiveRun } from '../active-run.ts';
import type { Report } from '../protocol.ts';
import { generatorFor, endTokens, questionsOf } from './answers.ts';
import { openTeacher, studentOnDevice, teacherOnDevice, type DeviceModel } from './device-model.ts';
import type { RunData, RunRows } from './rows.ts';
import type { Student } from './student.ts';

const WHO = ['student', 'start', 'teacher'] as const;
type Who = (typeof WHO)[number];
type TaskFigures = Report['evaluate']['tasks'][number];

export async function evaluateTasks(
  run: ActiveRun,
  student: Student,
  trained: ReadonlyMap<string, Float32Array>,
  { data, own }: Pick<RunRows, 'data' | 'own'>,
): Promise<void> {
  const { tasks } = run.recipe.evaluate;
  const student_parameters = student.parameters;
  let figures: TaskFigures[] =
    run.facts.found.evaluate?.tasks ?? tasks.map((task) => ({ name: task.source, metric: task.task }));
  await run.find('evaluate', { tasks: figures, student_parameters });
  if (tasks.length === 0) return;

  const questionsFor = ({ tokenizer }: RunData): Promise<Question[][]> =>
    Promise.all(tasks.map((task, i) => questionsOfTask(run, task, i, tokenizer)));
  const students = await questionsFor(own);
  const teachers = own === data ? students : await questionsFor(data);
  const asked = students.reduce((sum, list) => sum + list.length, 0);
  const teacher = run.recipe.distill.objective === 'none' ? undefined : await openTeacher(run);
  const total = WHO.length * asked;
  const device = await run.device();
  const load: Record<Who, () => Promise<DeviceModel> | undefined> = {
    student: () => studentOnDevice(device, student, trained),
    start: () => studentOnDevice(device, student),
    teacher: () => teacher && teacherOnDevice(run, device, teacher),
  };
  let done = 0;
  for (const who of WHO) {
    const [questions, { tokenizer }] = who === 'teacher' ? [teachers, data] : [students, own];
    const missing = figures.some((figure) => figure[who] === undefined);
    const model = missing ? await load[who]() : undefined;
    if (!model) {
      run.progress('evaluate', (done += asked), total, 'answers');
      continue;
    }
    try {
      const eos_token_ids = await endTokens(who === 'teacher' ? teacher! : student.model, tokenizer);
      for (const [i, task] of tasks.entries()) {
        const list = questions[i]!;
        const figure =
          figures[i]![who] ??
          (await answered(run, model, tokenizer, list, { max_new_tokens: task.max_new_tokens, eos_token_ids }, (n) =>
            run.progress('evaluate', done + n, total, 'answers'),
          ));
        done += list.length;
        figures = figures.map((old, j) => (j === i ? { ...old, [who]: figure } : old));
        if (who !== 'start') run.emit({ kind: 'score', step: run.facts.of, who, task: task.source, figure });
        else run.emit({ kind: 'score', step: 0, who: 'student', task: task.source, figure });
        await run.find('evaluate', { tasks: figures, student_parameters });
      }
    } finally {
      model.free();
    }
  }
}

async function answered(
  run: ActiveRun,
  model: DeviceModel,
  tokenizer: Tokenizer,
  questions: readonly Question[],
  settings: { max_new_tokens: number; eos_token_ids: readonly number[] },
  onProgress: (done: number) => void,
): Promise<Proportion> {
  const generator = await generatorFor(await run.device(), model, questions, settings.max_new_tokens);
  const { prompt } = generator.shape;
  try {
    const { figure } = await exactMatch(
      generator,
      questions.map(({ input_ids, expected }) => ({
        input_ids: input_ids.slice(-prompt),
        expected: answerOf(expected),
      })),
      {
        ...settings,
        answerOf,
        decode: (ids) => tokenizer.decode(ids, { skip_special_tokens: true }),
        onProgress: async (done) => {
          onProgress(done);
          await run.breathe();
        },
      },
    );
    return figure;
  } finally {
    generator.free();
  }
}

async function questionsOfTask(run: ActiveRun, task: Task, i: number, tokenizer: Tokenizer): Promise<Question[]> {
  const source = await run.sources.file(`evaluate.tasks.${i}.source`, task.source);
  const { rows } = await readDataset(source);
  return questionsOf(task.limit === null ? rows : rows.slice(0, task.limit), tokenizer, source.name);
}
