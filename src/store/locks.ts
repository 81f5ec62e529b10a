/**
 * Who may write: one tab a run (or a kept model), by the browser's own locks, which a crash releases. A lock that others
 * could wait for also keeps Chromium from freezing a hidden tab that works.
 */
import { Busy } from './faults.ts';

/**
 * Runs `work` while holding the owner's lock. A page that has just been reloaded leaves its lock a moment later than its
 * successor asks for it, hence the patience.
 */
export async function withLock<T>(owner: string, work: () => Promise<T>, patienceMs = 1000): Promise<T> {
  const name = `stillroom ${owner}`;
  const until = performance.now() + patienceMs;
  for (;;) {
    const outcome = await navigator.locks.request(name, { ifAvailable: true }, async (lock) =>
      lock ? { value: await work() } : undefined,
    );
    if (outcome) return outcome.value;
    if (performance.now() >= until) throw new Busy(owner);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

export const withRunLock = <T>(runId: string, work: () => Promise<T>, patienceMs?: number): Promise<T> =>
  withLock(`run:${runId}`, work, patienceMs);

/** Owners whose lock someone holds now. */
export async function busyOwners(): Promise<string[]> {
  const { held = [] } = await navigator.locks.query();
  return held.flatMap(({ name }) => (name?.startsWith('stillroom ') ? [name.slice('stillroom '.length)] : []));
}
