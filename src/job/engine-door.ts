/** The job as a worker opens it: at once, so that no message is missed; the store opens behind it. */
import { Store } from '../store/store.ts';
import { browserHost } from './browser-host.ts';
import { Job } from './job.ts';

/** @param workerAddress of the worker's script, which lies one folder below the page in every build */
export function openEngine(workerAddress: string): Job {
  const host = Store.open().then((store) => browserHost(store, new URL('../', workerAddress).href));
  host.catch(() => undefined); // whoever calls the job hears of it
  return new Job(host);
}
