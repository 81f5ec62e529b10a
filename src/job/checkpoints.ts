/**
 * Checkpoints of a run: `STEP/state.safetensors` (weights and moments as the trainer packs them) and `STEP/state.json` (the
 * rest), put together or not at all. One that does not read back as it was written is passed over for the one before.
 *
 * The recipe's save points are kept as it says (save_steps, save_total_limit). Between them the two newest are kept for
 * crashes alone; how often those are taken changes nothing about a run's bits.
 */
import type { Keep } from '../formats/keep.ts';
import { MemorySource } from '../formats/byte-source.ts';
import { openSafetensors, writeSafetensors } from '../formats/safetensors.ts';
import type { TrainerState } from '../train/trainer.ts';

export interface Progress {
  /** Optimiser steps done. */
  readonly step: number;
  /** A save point of the recipe; else one against crashes. */
  readonly saved: boolean;
  /** Of the last evaluation. */
  readonly eval_loss?: number;
  /** Sums since the last log line, and tokens since the start: log lines after a resumption are those of a whole run. */
  readonly log: LogState;
}

/** Everything that the next log line is made of. */
export interface LogState {
  readonly num_tokens: number;
  readonly since: { readonly steps: number; readonly sums: Readonly<Record<string, number>> };
}

export interface Checkpoint {
  readonly state: TrainerState;
  readonly progress: Progress;
  readonly bytes: number;
}

const folderOf = (step: number): string => String(step).padStart(9, '0');

export class Checkpoints {
  constructor(private readonly keep: Keep) {}

  /** On the disk when this resolves. @returns bytes */
  async save(state: TrainerState, progress: Progress): Promise<number> {
    const folder = folderOf(state.step);
    const tensors = writeSafetensors(
      state.tensors.map(({ name, data }) => ({
        name,
        dtype: data instanceof Int32Array ? 'I32' : 'F32',
        shape: [data.length],
        data: data as Float32Array<ArrayBuffer> | Int32Array<ArrayBuffer>,
      })),
    );
    const json = new TextEncoder().encode(JSON.stringify(progress));
    await this.keep.put(
      [
        { key: `${folder}/state.safetensors`, bytes: tensors },
        { key: `${folder}/state.json`, bytes: json },
      ],
      { durable: true },
    );
    return tensors.length + json.length;
  }

  /** The newest that reads back whole. */
  async latest(): Promise<Checkpoint | undefined> {
    for (const step of (await this.steps()).reverse()) {
      const checkpoint = await this.read(step);
      if (checkpoint) return checkpoint;
    }
    return undefined;
  }

  /** undefined where it is not there, or damaged. */
  async read(step: number): Promise<Checkpoint | undefined> {
    const folder = folderOf(step);
    try {
      const [tensors, json] = [
        await this.keep.get(`${folder}/state.safetensors`),
        await this.keep.get(`${folder}/state.json`),
      ];
      if (!tensors || !json) return undefined;
      const file = await openSafetensors(new MemorySource(`checkpoint ${step}`, tensors));
      const state: TrainerState['tensors'][number][] = [];
      for (const name of file.tensors.keys())
        state.push({ name, data: (await file.read(name)) as Float32Array | Int32Array });
      const progress = JSON.parse(new TextDecoder().decode(json)) as Progress;
      return { state: { step, tensors: state }, progress, bytes: tensors.length + json.length };
    } catch (error) {
      if ((error as Error).name === 'Damaged') return undefined;
      throw error;
    }
  }

  /** In order. */
  async steps(): Promise<number[]> {
    const keys = await this.keep.keys('');
    return [...new Set(keys.map((key) => Number(key.slice(0, key.indexOf('/')))))].sort((a, b) => a - b);
  }

  /**
   * Deletes what nobody needs any more.
   * @param limit how many save points stay; null: all
   * @param best the one with the lowest eval_loss, where the run shall end with it
   */
  async prune(limit: number | null, best: number | undefined): Promise<void> {
    const steps = await this.steps();
    const saved: number[] = [];
    for (const step of steps) if (await this.isSaved(step)) saved.push(step);
    const stay = new Set([...steps.slice(-2), ...(limit === null ? saved : saved.slice(-limit))]);
    if (best !== undefined) stay.add(best);
    const gone = steps.filter((step) => !stay.has(step)).map(folderOf);
    await this.keep.delete(gone.flatMap((folder) => [`${folder}/state.safetensors`, `${folder}/state.json`]));
  }

  private async isSaved(step: number): Promise<boolean> {
    const json = await this.keep.get(`${folderOf(step)}/state.json`).catch(() => undefined);
    return json !== undefined && (JSON.parse(new TextDecoder().decode(json)) as Progress).saved;
  }
}
