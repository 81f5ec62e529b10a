/**
 * One sitting of a run: from where it stands to done, paused, stopped or failed. Here is decided what each kind of fault
 * means: a lost device is got again and the run goes back to its last checkpoint; a full disk pauses; the rest ends the
 * sitting with words, and everything kept stays.
 */
import { EngineError } from '../engine/errors.ts';
import { DownloadFault } from '../formats/download-fault.ts';
import { InputError } from '../formats/input-error.ts';
import { DiskFull } from '../store/faults.ts';
import { ServerFault } from '../teacher/endpoint/server.ts';
import { Interrupted, type ActiveRun } from './active-run.ts';
import { drive } from './drive.ts';
import type { JobEvent } from './protocol.ts';

/** Losses of the device in a row, without an optimiser step in between. */
const MOST_LOSSES = 3;

export async function work(run: ActiveRun): Promise<void> {
  await run.host.shelf.tidy(run.facts.id);
  const fresh = run.facts.history.length === 0;
  await run.happened(fresh ? 'started' : 'resumed');
  await run.note({ state: 'running', last: undefined });
  if (!fresh) run.emit({ kind: 'resumed' });
  try {
    await withDevicesLost(run);
  } catch (error) {
    await end(run, error);
  } finally {
    await run.closeDevice();
  }
}

async function withDevicesLost(run: ActiveRun): Promise<void> {
  for (let losses = 0; ;) {
    const before = run.facts.step;
    try {
      const report = await drive(run);
      const done = { kind: 'done', report } as const;
      await run.note({ state: 'done', last: done });
      run.emit(done);
      return;
    } catch (error) {
      if (!(error instanceof EngineError) || error.fault !== 'device-lost') throw error;
      losses = run.facts.step > before ? 1 : losses + 1;
      await run.happened('fault', error.message);
      if (losses > MOST_LOSSES) throw error;
      run.emit({ kind: 'paused', why: 'device-lost', message: error.message });
      await run.closeDevice();
      // A driver that has just been reset needs a moment; the next adapter is a new one.
      await new Promise((resolve) => setTimeout(resolve, 250 * losses));
      run.emit({ kind: 'resumed' });
    }
  }
}

async function end(run: ActiveRun, error: unknown): Promise<void> {
  if (error instanceof Interrupted) {
    await run.happened('paused', error.by === 'stopped' ? 'stopped' : undefined);
    if (error.by === 'stopped') return run.note({ state: 'stopped' });
    const last = { kind: 'paused', why: 'asked' } as const;
    await run.note({ state: 'paused', last });
    return run.emit(last);
  }
  const message = error instanceof Error ? error.message : String(error);
  // Bad input leaves nothing behind; what a teacher wrote for this run is not thrown away for it.
  const input = error instanceof InputError && run.facts.found.teacher?.answers === undefined;
  const last: Extract<JobEvent, { kind: 'paused' | 'error' }> =
    error instanceof DiskFull ? { kind: 'paused', why: 'disk-full', message } : { kind: 'error', input, message };
  try {
    await run.happened(last.kind === 'paused' ? 'paused' : 'fault', message);
    await run.note({ state: last.kind === 'paused' ? 'paused' : 'failed', last });
  } catch (noting) {
    // On a disk that is full even this may not fit; the person is told all the same.
    if (!(noting instanceof DiskFull)) throw noting;
  }
  run.emit(last);
  const isTold = [InputError, EngineError, DownloadFault, ServerFault].some((kind) => error instanceof kind);
  if (last.kind === 'error' && !isTold) console.error(error);
}
