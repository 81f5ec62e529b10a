/**
 * The runs that this browser keeps, the one that is looked at, and what is done to it. Fed by JobEvents, live or kept.
 */
import type { JobEvent, MetricsLine, RunSummary } from '../../job/protocol.ts';
import type { RecipeInput } from '../../recipe/schema.ts';
import { job } from '../job.ts';
import { noteFault } from './faults.svelte.ts';
import { measureSpace } from './device.svelte.ts';
import { recipe, setRecipe } from './recipe.svelte.ts';
import { apply, emptyView, type RunView } from './run-view.ts';

const KEY = 'stillroom.run';

let list = $state.raw<readonly RunSummary[]>([]);
let current = $state.raw<RunView | undefined>();
/** The run that the worker works on; one at a time. */
let working = $state<string | undefined>();
let overlays = $state.raw<readonly { summary: RunSummary; metrics: readonly MetricsLine[] }[]>([]);
let problem = $state<string | undefined>();
/** A run being opened, and what it said since. */
let opening: { id: string; meanwhile: JobEvent[] } | undefined;
/** Asked to pause or stop, and not there yet. */
let asked = $state<'pause' | 'stop' | undefined>();

export const runs = {
  get list() {
    return list;
  },
  get current() {
    return current;
  },
  get working() {
    return working;
  },
  /** The run looked at is the one worked on. */
  get live() {
    return working !== undefined && current?.summary.id === working;
  },
  get overlays() {
    return overlays;
  },
  get problem() {
    return problem;
  },
  get asked() {
    return asked;
  },
};

const words = (error: unknown): string => (error instanceof Error ? error.message : String(error));

export function hasLastRun(): boolean {
  return localStorage.getItem(KEY) !== null;
}

/** Runs of an earlier visit; `restore` opens the last one looked at. */
export async function loadRuns(restore: boolean): Promise<void> {
  list = await job().runs();
  const last = localStorage.getItem(KEY);
  if (restore && last && list.some(({ id }) => id === last)) await openRun(last);
}

export async function openRun(id: string): Promise<void> {
  if (current?.summary.id === id) return;
  const summary = list.find((run) => run.id === id);
  if (!summary) return;
  // What a run that works says while its past is fetched is heard twice or late, and told once.
  const meanwhile: JobEvent[] = [];
  opening = { id, meanwhile };
  const past = await job().events(id);
  if (opening?.id !== id) return;
  opening = undefined;
  let view = emptyView(summary);
  for (const event of [...past, ...meanwhile]) view = apply(view, event, Date.parse(summary.created));
  // A run that was working when its page died is not working now.
  const state = working === id ? 'running' : summary.state === 'running' ? 'paused' : summary.state;
  look({ ...view, state });
  setRecipe(summary.recipe, { run: id });
}

function look(view: RunView): void {
  current = view;
  overlays = overlays.filter(({ summary }) => summary.id !== view.summary.id);
  localStorage.setItem(KEY, view.summary.id);
}

/** Lets go of the run that is looked at; its recipe stays in the forms, free to change. */
export function leaveRun(): void {
  current = undefined;
  overlays = [];
  localStorage.removeItem(KEY);
}

/** Keeps a new run of the recipe in the forms and starts it. */
export async function startRun(input: RecipeInput = recipe.draft): Promise<void> {
  problem = undefined;
  try {
    const summary = await job().create(input, recipe.files, recipe.like);
    list = [summary, ...list];
    look(emptyView(summary));
    void persistQuietly();
    void work(summary.id);
  } catch (error) {
    problem = words(error);
    noteFault(error);
  }
}

export async function resumeRun(): Promise<void> {
  if (current && working === undefined) await work(current.summary.id);
}

async function work(id: string): Promise<void> {
  working = id;
  asked = undefined;
  problem = undefined;
  if (current?.summary.id === id) current = { ...current, state: 'running', paused: undefined, error: undefined };
  try {
    await job().run(id, (event) => hear(id, event));
  } catch (error) {
    const message = words(error);
    noteFault(error);
    hear(id, { kind: 'error', input: /InputError/.test(String((error as Error).name)), message });
  } finally {
    working = undefined;
    if (current?.summary.id === id && current.state === 'running') {
      current = { ...current, state: asked === 'stop' ? 'stopped' : 'paused' };
    }
    asked = undefined;
    list = await job().runs();
    void measureSpace();
  }
}

/** A run that the command line drives: the page shows it, and has nothing to decide. */
export async function followBridge(token: string): Promise<void> {
  const summary = await job().headless(token);
  list = [summary];
  look(emptyView(summary));
  await work(summary.id);
}

function hear(id: string, event: JobEvent): void {
  if (event.kind === 'error') noteFault(event.message);
  if (opening?.id === id) opening.meanwhile.push(event);
  if (current?.summary.id === id) current = apply(current, event, Date.now());
}

export async function pauseRun(): Promise<void> {
  asked = 'pause';
  await job().pause();
}

export async function stopRun(): Promise<void> {
  asked = 'stop';
  await job().stop();
}

export async function removeRun(id: string): Promise<void> {
  await job().remove(id);
  list = list.filter((run) => run.id !== id);
  overlays = overlays.filter(({ summary }) => summary.id !== id);
  if (current?.summary.id === id) leaveRun();
  await measureSpace();
}

export async function restoreRun(file: Blob): Promise<RunSummary> {
  const summary = await job().restore(file);
  list = [summary, ...list.filter(({ id }) => id !== summary.id)];
  await measureSpace();
  return summary;
}

/** Lays an earlier run over the curves, or takes it off again. */
export async function toggleOverlay(id: string): Promise<void> {
  if (overlays.some(({ summary }) => summary.id === id)) {
    overlays = overlays.filter(({ summary }) => summary.id !== id);
    return;
  }
  const summary = list.find((run) => run.id === id);
  if (!summary) return;
  const metrics = (await job().events(id)).flatMap((event) => (event.kind === 'metrics' ? [event.line] : []));
  overlays = [...overlays, { summary, metrics }];
}

/** Chromium and Safari decide silently; Firefox would ask, so there it waits for the button in the storage panel. */
async function persistQuietly(): Promise<void> {
  if (!navigator.userAgent.includes('Firefox')) await navigator.storage.persist().catch(() => false);
}
