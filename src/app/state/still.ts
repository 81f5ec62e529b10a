/**
 * How far each step of the still is: what stands under its name in the rail and how full its piece of the pipe is. Read
 * off the recipe before a run, off the run once there is one.
 */
import type { Messages } from '../messages/en.ts';
import type { Place } from './route.svelte.ts';
import { percent } from '../messages/words.ts';
import { shareDone, type RunView } from './run-view.ts';
import type { recipe as recipeStore } from './recipe.svelte.ts';

export const STILL = ['data', 'teacher', 'student', 'train', 'evaluate', 'export', 'try'] as const satisfies Place[];
export type StillStep = (typeof STILL)[number];

export interface StillState {
  /** About three words; '' where there is nothing to say yet. */
  readonly text: string;
  /** 0 to 1. */
  readonly full: number;
}

type RecipeStore = Pick<typeof recipeStore, 'draft' | 'filled' | 'preview' | 'problem'>;

export function stillState(step: StillStep, run: RunView | undefined, recipe: RecipeStore, m: Messages): StillState {
  return run ? ofRun(step, run, m) : ofRecipe(step, recipe, m);
}

function ofRecipe(step: StillStep, { draft, filled, preview, problem }: RecipeStore, m: Messages): StillState {
  const nothing: StillState = { text: '', full: 0 };
  switch (step) {
    case 'data': {
      if (draft.data.source === '') return { text: m.state.noRows, full: 0 };
      const bundled = draft.data.source.startsWith('bundled:');
      const from = bundled ? m.state.bundled : '';
      if (!preview) return { text: bundled ? from : m.state.chosen, full: 1 };
      return { text: from ? m.state.rowsIn(preview.rows, from) : m.state.rows(preview.rows), full: 1 };
    }
    case 'teacher': {
      const teacher = draft.teacher;
      if (!teacher || teacher.kind === 'none') return { text: m.state.noTeacher, full: 1 };
      const name = teacher.kind === 'cache' ? teacher.source : teacher.model;
      return name === '' ? nothing : { text: shortName(name), full: 1 };
    }
    case 'student':
      return draft.student.model === '' ? nothing : { text: studentText(draft.student, m), full: 1 };
    case 'train':
      return filled && !problem ? { text: m.state.ready, full: 0 } : nothing;
    default:
      return nothing;
  }
}

function studentText(student: RecipeStore['draft']['student'], m: Messages): string {
  const cut = student.compress;
  const layers = cut?.layers?.length ?? cut?.num_hidden_layers;
  return layers === undefined ? shortName(student.model) : m.state.layers(layers);
}

/** bundled:arithmetic → arithmetic, HuggingFaceTB/SmolLM2-135M → SmolLM2-135M. */
export const shortName = (name: string): string =>
  name
    .replace(/^bundled:/, '')
    .replace(/\/+$/, '')
    .replace(/^.*\//, '');

function ofRun(step: StillStep, run: RunView, m: Messages): StillState {
  if (step === 'try') return { text: run.steps.train.state === 'done' ? m.state.talk : '', full: run.report ? 1 : 0 };
  const { state, progress, facts } = run.steps[step];
  const full = shareDone(run, step);
  const fact = (name: string): number | undefined => (typeof facts[name] === 'number' ? facts[name] : undefined);
  if (state === 'skipped') return { text: m.state.skipped, full };
  if (run.now === step && state !== 'done' && run.state !== 'running') {
    const halted = run.state === 'failed' ? m.state.failed : run.state === 'stopped' ? m.state.stopped : m.state.paused;
    return { text: halted, full };
  }
  if (state === 'running') return { text: full > 0 ? percent(full) : m.state.running, full };
  if (state === 'waiting') return { text: '', full };
  switch (step) {
    case 'data': {
      const rows = fact('rows');
      return { text: rows === undefined ? m.state.done : m.state.rows(rows), full };
    }
    case 'teacher': {
      const size = fact('cache_bytes');
      return { text: size === undefined ? m.state.done : m.state.cacheReady(size), full };
    }
    case 'student': {
      const parameters = fact('parameters');
      return { text: parameters === undefined ? m.state.done : m.state.parameters(parameters), full };
    }
    case 'train':
      return { text: progress?.unit === 'steps' ? m.state.steps(progress.of) : m.state.done, full };
    case 'evaluate': {
      const figure = run.report?.evaluate.tasks[0]?.student;
      return { text: figure ? m.state.right(figure.value) : m.state.done, full };
    }
    case 'export': {
      const files = run.report?.export.files;
      const size = files?.reduce((sum, file) => sum + file.bytes, 0) ?? 0;
      return { text: files ? m.state.files(files.length, size) : m.state.done, full };
    }
  }
}
