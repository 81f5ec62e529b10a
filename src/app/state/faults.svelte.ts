/** The last errors of the page and the job, for "copy diagnostics"; nothing is sent anywhere. */
interface Fault {
  readonly time: string;
  readonly what: string;
}

const MOST = 20;
let faults = $state.raw<readonly Fault[]>([]);

export function noteFault(error: unknown): void {
  const what = error instanceof Error ? `${error.name}: ${error.message}` : String(error);
  // eslint-disable-next-line svelte/prefer-svelte-reactivity -- a time that is written down and never changes
  faults = [...faults, { time: new Date().toISOString(), what: what.slice(0, 500) }].slice(-MOST);
}

export const lastFaults = (): readonly Fault[] => faults;

/** What Chrome, Safari and Firefox say of a module that could not be fetched, and Vite of a style sheet. */
const NOT_THERE = /dynamically imported module|importing a module script|unable to preload/i;

let stale = $state(false);
export const page = {
  /** A part of this version of the page is gone from the server. */
  get stale() {
    return stale;
  },
};

export function watchFaults(): void {
  window.addEventListener('error', (event) => noteFault(event.error ?? event.message));
  window.addEventListener('unhandledrejection', (event) => noteFault(event.reason));
  window.addEventListener('vite:preloadError', (event) => {
    noteFault(event.payload);
    // A module that came and threw is a fault of ours, and whoever imported it hears of it.
    if (!NOT_THERE.test(event.payload.message)) return;
    event.preventDefault();
    stale = true;
  });
}
