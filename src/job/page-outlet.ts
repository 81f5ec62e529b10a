/** Outputs of a run in the page: kept with the run, until they are taken out as a zip or into a folder. */
import type { Outlet, WritableFolder } from './host.ts';

export function pageOutlet(folder: WritableFolder): Outlet {
  return {
    write: (path, bytes) => folder.write(path, bytes instanceof Uint8Array ? [bytes] : bytes),
    open: (path) => folder.open(path),
    // The shelf's own lines are the metrics; Job.files makes the file of them.
    metrics: async () => undefined,
    metric: async () => undefined,
  };
}
