/**
 * While anything is awaited of it, Dawn's binding for Node asks in every turn of the event loop whether it is there
 * (AsyncRunner.cpp: `setImmediate` from within what `setImmediate` called), so that a thread that waits takes a whole core: of
 * two, half of what an adapter on the CPU computes with. It looks `setImmediate` up on the global object each time. Its calls
 * are put off by a millisecond once a wait has lasted one; everybody else's are as they were.
 */

/** Short waits end as soon as they can: decoding waits many times a second. */
const AT_ONCE_MS = 1;
const PAUSE_MS = 1;

export function waitPolitely(): void {
  const immediately = globalThis.setImmediate;
  /** While the binding asks: when the wait began that goes on if it wants to ask again. */
  let asking: number | undefined;
  const ask = (binding: () => void): unknown => {
    const began = asking ?? performance.now();
    const turn = (): void => {
      asking = began;
      try {
        binding();
      } finally {
        asking = undefined;
      }
    };
    return performance.now() - began < AT_ONCE_MS ? immediately(turn) : setTimeout(turn, PAUSE_MS);
  };
  const polite = (callback: (...args: unknown[]) => void, ...args: unknown[]): unknown =>
    args.length === 0 && isOfABinding(callback) ? ask(callback) : immediately(callback, ...args);
  globalThis.setImmediate = Object.defineProperties(
    polite,
    Object.getOwnPropertyDescriptors(immediately),
  ) as typeof setImmediate;
}

/** A function without a name that is not JavaScript (one that was bound has a name). */
function isOfABinding(callback: unknown): boolean {
  if (typeof callback !== 'function' || callback.name !== '') return false;
  return Function.prototype.toString.call(callback).endsWith('{ [native code] }');
}
