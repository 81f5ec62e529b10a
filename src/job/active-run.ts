/**
 * A run that is being worked on: what its steps share. Facts and events go to the shelf and to whoever listens, outputs to
 * the outlet; `breathe` is where a pause or stop takes effect.
 */
import type { Device } from '../engine/run/device.ts';
import type { Keep } from '../formats/keep.ts';
import type { Importance } from '../models/importance.ts';
import type { KeptTokens } from '../models/trim-vocabulary.ts';
import type { Recipe } from '../recipe/schema.ts';
import type { RecipeContext } from './context.ts';
import type { Host, LocalFiles, Outlet } from './host.ts';
import { openKnownDevice } from './known-device.ts';
import type { JobEvent, MetricsLine, Report, Step } from './protocol.ts';
import type { RunFacts } from './run-facts.ts';
import { Sources } from './sources.ts';

export type Ask = 'paused' | 'stopped';

/** Thrown where a step gives way to a person who asked for it; what is kept is complete. */
export class Interrupted extends Error {
  override readonly name = 'Interrupted';

  constructor(readonly by: Ask) {
    super(by);
  }
}

type Progress = Extract<JobEvent, { kind: 'progress' }>;

/** Shown live only, or kept as a fact: not a line of what a run has said. */
const NOT_KEPT = new Set<JobEvent['kind']>(['progress', 'paused', 'resumed', 'error', 'done']);
const PROGRESS_EVERY_MS = 200;

export class ActiveRun implements RecipeContext {
  readonly recipe: Recipe;
  readonly sources: Sources;
  readonly recipeFile: string;
  /** Of the model that is cut; drive measures it. */
  importance: Importance | undefined;
  /** Of a student whose vocabulary is trimmed; reading the rows finds it. */
  vocabulary: KeptTokens | undefined;
  asked: Ask | undefined;
  private gpu: Promise<Device> | undefined;
  private waiting: JobEvent[] = [];
  private writing: Promise<void> = Promise.resolve();
  private lastProgress = 0;
  private started: { step: Step; at: number } | undefined;

  constructor(
    readonly host: Host,
    private now: RunFacts,
    readonly outlet: Outlet,
    local: LocalFiles,
    private readonly listener: (event: JobEvent) => void,
  ) {
    this.recipe = now.recipe;
    this.recipeFile = now.recipe_file;
    this.sources = new Sources(host, local, now.recipe_file);
  }

  get facts(): RunFacts {
    return this.now;
  }

  keep(area: string): Keep {
    return this.host.shelf.keep(this.facts.id, area);
  }

  /** One device for all steps; after a loss the next call makes a new one on a new adapter. */
  device(): Promise<Device> {
    this.gpu ??= this.openDevice();
    return this.gpu;
  }

  async closeDevice(): Promise<void> {
    const device = await this.gpu?.catch(() => undefined);
    this.gpu = undefined;
    device?.destroy();
  }

  emit(event: JobEvent): void {
    if (event.kind === 'progress') this.now = { ...this.now, progress: { ...this.now.progress, [event.step]: event } };
    if (!NOT_KEPT.has(event.kind)) this.waiting.push(event);
    this.listener(event);
  }

  /** As `emit`, but no more often than a person can see; the last one (done = of) always. */
  progress(step: Step, done: number, of: number, unit: Progress['unit'], rest: Partial<Progress> = {}): void {
    const time = this.host.now().getTime();
    const event: Progress = { kind: 'progress', step, done, of, unit, ...rest };
    if (done < of && time - this.lastProgress < PROGRESS_EVERY_MS) {
      this.now = { ...this.now, progress: { ...this.now.progress, [step]: event } };
      return;
    }
    this.lastProgress = time;
    this.emit(event);
  }

  /** Changes facts; they are on the shelf when this resolves, and with them all that was said before. */
  async note(change: Partial<RunFacts>): Promise<void> {
    this.now = { ...this.now, ...change };
    await this.flush();
    await this.host.shelf.runs.put(this.now.id, this.now.created, this.now);
  }

  async find<Part extends keyof RunFacts['found']>(part: Part, what: Report[Part]): Promise<void> {
    await this.note({ found: { ...this.now.found, [part]: what } });
  }

  hash(what: string, sha256: string): void {
    this.now = { ...this.now, hashes: { ...this.now.hashes, [what]: sha256 } };
  }

  async happened(what: Report['history'][number]['what'], detail?: string): Promise<void> {
    const line = { time: this.host.now().toISOString(), what, ...(detail !== undefined && { detail }) };
    await this.note({ history: [...this.now.history, line] });
  }

  /** What was said is on the shelf, and its metrics in the outlet, when this resolves. */
  flush(): Promise<void> {
    const turn = this.writing.then(async () => {
      const lines = this.waiting;
      if (lines.length === 0) return;
      await this.host.shelf.runs.append(this.now.id, lines);
      this.waiting = this.waiting.slice(lines.length);
      for (const line of metricsLines(lines)) await this.outlet.metric(line);
    });
    // One that fails (a full disk) keeps its lines for the next.
    this.writing = turn.catch(() => undefined);
    return turn;
  }

  /** Goes back to what had been said at an optimiser step. @returns the metrics up to there */
  async rewind(step: number): Promise<MetricsLine[]> {
    await this.flush();
    await this.host.shelf.runs.trim(this.now.id, (event) => optimiserStep(event) <= step);
    const events = await this.host.shelf.runs.lines(this.now.id);
    await this.outlet.metrics(metricsLines(events));
    return events.flatMap((event) => (event.kind === 'metrics' ? [event.line] : []));
  }

  /** All lines of metrics so far. */
  async metrics(): Promise<MetricsLine[]> {
    await this.flush();
    const events = await this.host.shelf.runs.lines(this.now.id);
    return events.flatMap((event) => (event.kind === 'metrics' ? [event.line] : []));
  }

  /** Between two pieces of work. */
  async breathe(): Promise<void> {
    if (this.waiting.length > 0) await this.flush();
    if (this.asked) throw new Interrupted(this.asked);
  }

  /** A step, from its first event to its last; its time counts even where it ends by throwing. */
  async step<T>(step: Step, work: () => Promise<T>): Promise<T> {
    await this.breathe();
    this.emit({ kind: 'step', step, state: 'running' });
    this.started = { step, at: this.host.now().getTime() };
    try {
      const result = await work();
      this.emit({ kind: 'step', step, state: 'done' });
      return result;
    } finally {
      this.clock();
      await this.note({});
    }
  }

  /** Seconds of a step so far. */
  seconds(step: Step): number {
    this.clock();
    return this.now.seconds[step] ?? 0;
  }

  private clock(): void {
    if (!this.started) return;
    const { step, at } = this.started;
    const time = this.host.now().getTime();
    this.started = { step, at: time };
    const before = this.now.seconds[step] ?? 0;
    this.now = { ...this.now, seconds: { ...this.now.seconds, [step]: before + (time - at) / 1000 } };
  }

  private async openDevice(): Promise<Device> {
    const device = await openKnownDevice(this.host);
    const { adapter } = device;
    this.emit({ kind: 'adapter', ...adapter });
    const { vendor, architecture, device: model, description, software } = adapter;
    const { user_agent } = this.host;
    await this.find('adapter', { vendor, architecture, device: model, description, software, user_agent });
    return device;
  }
}

export function metricsLines(events: readonly JobEvent[]): string[] {
  return events.flatMap((event) => (event.kind === 'metrics' ? [JSON.stringify(event.line)] : []));
}

/** The optimiser step that an event speaks of; 0 for those that speak of none. */
function optimiserStep(event: JobEvent): number {
  if (event.kind === 'metrics') return event.line.step;
  return event.kind === 'sample' || event.kind === 'score' || event.kind === 'checkpoint' ? event.step : 0;
}
