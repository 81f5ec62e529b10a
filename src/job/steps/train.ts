/**
 * Optimiser steps from where the last checkpoint stands to the end. What a step computes depends on the weights, the
 * moments and its number alone, so a run that was killed, paused or lost its device goes through the same bits.
 *
 * The next step is submitted before the last one's numbers are home; whatever needs the weights as they are (evaluation,
 * a checkpoint, a sample) waits for all that was submitted.
 */
import { everySteps } from '../../recipe/derived.ts';
import type { MicroBatch, TeacherBatch } from '../../train/batch.ts';
import type { StepResult, Trainer } from '../../train/trainer.ts';
import type { ActiveRun } from '../active-run.ts';
import { Checkpoints, type Checkpoint } from '../checkpoints.ts';
import type { MetricsLine } from '../protocol.ts';
import { LogLines } from './log-lines.ts';

export interface TrainingData {
  readonly total_steps: number;
  readonly steps_per_epoch: number;
  /** The micro-batches of an optimiser step, from 0: a function of the number alone. */
  batches(step: number): readonly MicroBatch[];
  readonly evaluation: readonly MicroBatch[];
  /** What the teacher said at every place of a batch; undefined without a teacher. */
  teacher(batch: MicroBatch): Promise<TeacherBatch | undefined>;
}

/** A checkpoint against crashes is taken when the last one is so old. */
const SECONDS_AT_RISK = 60;
/** Steps whose numbers have not come home. */
const MOST_IN_FLIGHT = 2;
/** Steps that a pace is known by. */
const LEAST_PACED = 5;

export class Training {
  private readonly checkpoints: Checkpoints;
  private log!: LogLines;
  private readonly inFlight: Promise<StepResult>[] = [];
  /** The last evaluation, as its line says it. */
  private evaluated: MetricsLine | undefined;
  private best: { step: number; eval_loss: number } | undefined;
  private savedAt = 0;
  /** Where the rate is counted from. */
  private since = { step: 0, seconds: 0 };
  /** Steps that came home one upon the other, with nothing but training between them, and the seconds between. */
  private readonly paced = { steps: 0, seconds: 0 };
  private heardAt: number | undefined;

  constructor(
    private readonly run: ActiveRun,
    private readonly trainer: Trainer,
    private readonly data: TrainingData,
    /** Called where the weights may be looked at: at the start, after an evaluation, at the end. */
    private readonly look: (step: number) => Promise<void>,
  ) {
    this.checkpoints = new Checkpoints(run.keep('checkpoints'));
  }

  async go(): Promise<void> {
    const { run, trainer, data } = this;
    await this.begin();
    while (trainer.step < data.total_steps) {
      await this.breathe();
      const batches = data.batches(trainer.step);
      const teachers = await Promise.all(batches.map((batch) => data.teacher(batch)));
      const result = trainer.submitStep(batches, teachers);
      result.catch(() => undefined); // `hear` tells; until then another fault may have ended the sitting
      this.inFlight.push(result);
      while (this.inFlight.length >= MOST_IN_FLIGHT) await this.hear();
      if (
        this.isDue('eval') ||
        this.isDue('save') ||
        run.host.now().getTime() - this.savedAt > SECONDS_AT_RISK * 1000
      ) {
        await this.hearAll();
        if (this.isDue('eval')) await this.evaluate();
        await this.save(this.isDue('save'));
      }
    }
    await this.hearAll();
    if (this.evaluated?.step !== trainer.step) await this.evaluate();
    await this.save(true);
    await this.takeBest();
  }

  /** Of a step while nothing else goes on; undefined after too few. */
  get secondsPerStep(): number | undefined {
    const { steps, seconds } = this.paced;
    return steps < LEAST_PACED ? undefined : seconds / steps;
  }

  private async begin(): Promise<void> {
    const { run, trainer, data } = this;
    const { logging_strategy, logging_steps } = run.recipe.training;
    const checkpoint = await this.restored();
    const every = { no: undefined, epoch: data.steps_per_epoch, steps: everySteps(logging_steps, data.total_steps) };
    this.log = new LogLines(
      {
        steps_per_epoch: data.steps_per_epoch,
        every: every[logging_strategy],
        teacher: run.recipe.teacher.kind !== 'none' && run.recipe.distill.objective !== 'none',
        seconds: () => run.seconds('train'),
      },
      checkpoint?.progress.log,
    );
    const lines = await run.rewind(trainer.step);
    this.evaluated = lines.findLast((line) => line.step === trainer.step && line.eval_loss !== undefined);
    await run.note({ step: trainer.step, of: data.total_steps });
    this.savedAt = run.host.now().getTime();
    run.progress('train', trainer.step, data.total_steps, 'steps');
    if (!checkpoint && !this.evaluated) await this.evaluate();
    this.since = { step: trainer.step, seconds: run.seconds('train') };
  }

  private async restored(): Promise<Checkpoint | undefined> {
    const checkpoint = await this.checkpoints.latest();
    if (checkpoint) this.trainer.restore(checkpoint.state);
    if (this.run.recipe.training.load_best_model_at_end) this.best = await this.bestSoFar();
    return checkpoint;
  }

  private isDue(what: 'eval' | 'save'): boolean {
    const { training } = this.run.recipe;
    const { total_steps, steps_per_epoch } = this.data;
    const strategy = training[`${what}_strategy`];
    if (strategy === 'no') return false;
    const every = strategy === 'epoch' ? steps_per_epoch : everySteps(training[`${what}_steps`], total_steps);
    return this.trainer.step % every === 0;
  }

  /** A pause or stop is answered with everything on the disk. */
  private async breathe(): Promise<void> {
    if (this.run.asked) {
      await this.hearAll();
      await this.save(false);
    }
    await this.run.breathe();
  }

  private async hearAll(): Promise<void> {
    while (this.inFlight.length > 0) await this.hear();
  }

  private async hear(): Promise<void> {
    const { run, data } = this;
    const result = await this.inFlight.shift()!;
    const now = run.host.now().getTime();
    if (this.heardAt !== undefined) {
      this.paced.steps++;
      this.paced.seconds += (now - this.heardAt) / 1000;
    }
    // the next one has been under way since
    this.heardAt = this.inFlight.length > 0 ? now : undefined;
    const line = this.log.add(result);
    if (line) run.emit({ kind: 'metrics', line });
    const rate = (result.step - this.since.step) / Math.max(1e-3, run.seconds('train') - this.since.seconds);
    const seconds_left = (data.total_steps - result.step) / rate;
    run.progress('train', result.step, data.total_steps, 'steps', { rate, seconds_left });
  }

  private async evaluate(): Promise<void> {
    const { run, trainer, data } = this;
    if (data.evaluation.length > 0) {
      const result = await trainer.evaluate(data.evaluation, (batch) => data.teacher(batch));
      this.evaluated = this.log.evaluation(trainer.step, result);
      run.emit({ kind: 'metrics', line: this.evaluated });
    }
    await this.look(trainer.step);
  }

  /** What was said up to here is on the shelf before the checkpoint is: a resumed run misses no line. */
  private async save(asRecipe: boolean): Promise<void> {
    const { run, trainer } = this;
    const { save_total_limit, load_best_model_at_end } = run.recipe.training;
    await run.flush();
    const eval_loss = this.evaluated?.step === trainer.step ? this.evaluated.eval_loss : undefined;
    const bytes = await this.checkpoints.save(await trainer.state(), {
      step: trainer.step,
      saved: asRecipe,
      eval_loss,
      log: this.log.state,
    });
    if (load_best_model_at_end && eval_loss !== undefined && !(eval_loss >= (this.best?.eval_loss ?? Infinity))) {
      this.best = { step: trainer.step, eval_loss };
    }
    await this.checkpoints.prune(save_total_limit, this.best?.step);
    this.savedAt = run.host.now().getTime();
    run.emit({ kind: 'checkpoint', step: trainer.step, bytes });
    await run.note({ step: trainer.step });
  }

  private async bestSoFar(): Promise<{ step: number; eval_loss: number } | undefined> {
    let best: { step: number; eval_loss: number } | undefined;
    for (const step of await this.checkpoints.steps()) {
      const eval_loss = (await this.checkpoints.read(step))?.progress.eval_loss;
      if (eval_loss !== undefined && !(eval_loss >= (best?.eval_loss ?? Infinity))) best = { step, eval_loss };
    }
    return best;
  }

  private async takeBest(): Promise<void> {
    if (this.best === undefined || this.best.step === this.trainer.step) return;
    const best = await this.checkpoints.read(this.best.step);
    if (best) this.trainer.restore({ ...best.state, step: this.trainer.step });
  }
}
