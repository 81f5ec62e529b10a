/**
 * A run as the page shows it: the fold of everything the job has said. Pure, so that a run reopened after a reload
 * (JobApi.events) and one followed live end in the same picture.
 */
import {
  STEPS,
  type Estimate,
  type Figure,
  type JobEvent,
  type MetricsLine,
  type Report,
  type RunSummary,
  type Step,
} from '../../job/protocol.ts';

export type Progress = Extract<JobEvent, { kind: 'progress' }>;
export type Sample = Extract<JobEvent, { kind: 'sample' }>;
export type Adapter = Extract<JobEvent, { kind: 'adapter' }>;
export type Score = Extract<JobEvent, { kind: 'score' }>;

export interface StepView {
  readonly state: 'waiting' | 'running' | 'done' | 'skipped';
  readonly progress?: Progress;
  readonly facts: Readonly<Record<string, number | string>>;
}

export interface RunView {
  readonly summary: RunSummary;
  readonly state: RunSummary['state'];
  readonly steps: Readonly<Record<Step, StepView>>;
  /** The step that is worked on, or was when the run stopped. */
  readonly now?: Step;
  readonly metrics: readonly MetricsLine[];
  readonly scores: readonly Score[];
  readonly samples: readonly Sample[];
  readonly estimate?: Estimate;
  readonly adapter?: Adapter;
  /** `at`: milliseconds, by the page's clock, when the word of it arrived. */
  readonly checkpoint?: { readonly step: number; readonly bytes: number; readonly at: number };
  readonly paused?: Extract<JobEvent, { kind: 'paused' }>;
  readonly error?: { readonly input: boolean; readonly message: string };
  readonly report?: Report;
}

const WAITING: StepView = { state: 'waiting', facts: {} };

export function emptyView(summary: RunSummary): RunView {
  const steps = Object.fromEntries(STEPS.map((step) => [step, WAITING])) as Record<Step, StepView>;
  return { summary, state: summary.state, steps, metrics: [], scores: [], samples: [] };
}

/** A line of a step that the run has passed before replaces it: a run that went back to a checkpoint says it again. */
function withLine(lines: readonly MetricsLine[], line: MetricsLine): readonly MetricsLine[] {
  const last = lines[lines.length - 1];
  const kept = last && last.step > line.step ? lines.filter((other) => other.step <= line.step) : lines;
  const same = kept.findIndex((other) => other.step === line.step && isEvaluation(other) === isEvaluation(line));
  if (same < 0) return [...kept, line];
  return kept.map((other, i) => (i === same ? line : other));
}

export const isEvaluation = (line: MetricsLine): boolean => line.eval_loss !== undefined;

function withStep(view: RunView, step: Step, change: Partial<StepView>): RunView['steps'] {
  return { ...view.steps, [step]: { ...view.steps[step], ...change } };
}

export function apply(view: RunView, event: JobEvent, now: number): RunView {
  switch (event.kind) {
    case 'adapter':
      return { ...view, adapter: event };
    case 'step': {
      const started = event.state === 'running';
      return {
        ...view,
        ...(started ? { state: 'running', now: event.step, paused: undefined, error: undefined } : {}),
        steps: withStep(view, event.step, { state: event.state }),
      };
    }
    case 'progress': {
      const state = view.steps[event.step].state === 'waiting' ? 'running' : view.steps[event.step].state;
      return { ...view, steps: withStep(view, event.step, { state, progress: event }) };
    }
    case 'fact': {
      const facts = { ...view.steps[event.step].facts, ...event.facts };
      return { ...view, steps: withStep(view, event.step, { facts }) };
    }
    case 'estimate':
      return { ...view, estimate: event.estimate };
    case 'metrics':
      return { ...view, metrics: withLine(view.metrics, event.line) };
    case 'sample':
      return {
        ...view,
        samples: [
          ...view.samples.filter(
            ({ step, prompt }) => step < event.step || (step === event.step && prompt !== event.prompt),
          ),
          event,
        ],
      };
    case 'score': {
      const others = view.scores.filter(
        ({ step, who, task }) => !(step === event.step && who === event.who && task === event.task),
      );
      return { ...view, scores: [...others, event].sort((a, b) => a.step - b.step) };
    }
    case 'checkpoint':
      return { ...view, checkpoint: { step: event.step, bytes: event.bytes, at: now } };
    case 'paused':
      return { ...view, state: 'paused', paused: event };
    case 'resumed':
      return { ...view, state: 'running', paused: undefined, error: undefined };
    case 'error':
      return { ...view, state: 'failed', error: { input: event.input, message: event.message } };
    case 'done':
      return { ...view, state: 'done', report: event.report, paused: undefined, error: undefined };
  }
}

/** The newest score of one of them, for the right column and the table. */
export function latestScore(view: RunView, who: Score['who']): Figure | undefined {
  return view.scores.findLast((score) => score.who === who)?.figure;
}

/** How far a step is. Training counts optimiser steps; the kernels made before them are no part of the way. */
export function shareDone(view: RunView, step: Step): number {
  const { state, progress } = view.steps[step];
  if (state === 'done' || state === 'skipped') return 1;
  if (step === 'train' && progress?.unit !== 'steps') return 0;
  return progress && progress.of > 0 ? Math.min(1, progress.done / progress.of) : 0;
}
