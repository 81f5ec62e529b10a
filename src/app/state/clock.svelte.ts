/** A second hand, ticking only while something on the page reads it. */
import { createSubscriber } from 'svelte/reactivity';

const subscribe = createSubscriber((update) => {
  const timer = setInterval(update, 1000);
  return () => clearInterval(timer);
});

/** Milliseconds; whoever reads it is drawn again every second. */
export function now(): number {
  subscribe();
  return Date.now();
}
