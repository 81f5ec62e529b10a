/**
 * What a long run asks of the machine, and only while it is on: a screen that stays awake, a question before the page is
 * closed, a word at its end if the person asked for one.
 */
import { runs } from './runs.svelte.ts';
import { t } from './settings.svelte.ts';

let permission = $state<NotificationPermission>('Notification' in globalThis ? Notification.permission : 'denied');
let lock = $state.raw<WakeLockSentinel | undefined>();

export const notify = {
  get state() {
    return permission;
  },
  /** The screen is held awake now. */
  get awake() {
    return lock !== undefined;
  },
  /** Asked only on a press. */
  ask: async (): Promise<void> => {
    permission = await Notification.requestPermission();
  },
};

async function holdAwake(): Promise<void> {
  if (lock || runs.working === undefined || document.visibilityState !== 'visible' || !('wakeLock' in navigator))
    return;
  const got = await navigator.wakeLock.request('screen').catch(() => undefined);
  if (!got) return;
  // A lock that was let go (the tab was hidden) can't be used again.
  got.addEventListener('release', () => (lock = undefined));
  lock = got;
  if (runs.working === undefined) await got.release();
}

/** Call in a component's effect root; undone with it. */
export function guardRuns(): void {
  $effect(() => {
    if (runs.working === undefined) return;
    const ask = (event: BeforeUnloadEvent) => event.preventDefault();
    const again = () => void holdAwake();
    window.addEventListener('beforeunload', ask);
    document.addEventListener('visibilitychange', again);
    void holdAwake();
    return () => {
      window.removeEventListener('beforeunload', ask);
      document.removeEventListener('visibilitychange', again);
      void lock?.release();
      tellEnd();
    };
  });
}

/** Only to someone who looks elsewhere. */
function tellEnd(): void {
  if (permission !== 'granted' || document.visibilityState === 'visible') return;
  const view = runs.current;
  if (!view || view.state === 'stopped') return;
  const m = t();
  const { name } = view.summary;
  new Notification(m.train.notifyTitle, {
    body: view.state === 'done' ? m.train.notifyDone(name) : m.train.notifyFailed(name),
    icon: './icon.svg',
  });
}
