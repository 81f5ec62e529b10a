/** The host of a job in a browser's worker: WebGPU, IndexedDB, the page's own addresses. */
import { version } from '../../package.json';
import { backUpRun, restoreRun } from '../store/backup.ts';
import { collectGarbage } from '../store/files.ts';
import { busyOwners, withRunLock } from '../store/locks.ts';
import { throughStore } from '../store/models.ts';
import { runFolder, runKeep, runOwner } from '../store/run-keep.ts';
import { Runs } from '../store/runs.ts';
import { getSetting, putSetting } from '../store/settings.ts';
import { listKept } from '../store/space.ts';
import type { Store } from '../store/store.ts';
import type { Host, Shelf } from './host.ts';
import { HUBS, MIRRORS, type HubSettings } from './hub.ts';
import type { JobEvent } from './protocol.ts';
import { Reach } from './reach.ts';
import type { RunFacts } from './run-facts.ts';

/** @param pageAddress the folder that the page lies in, with a slash at its end */
export async function browserHost(store: Store, pageAddress: string): Promise<Host> {
  const mirrors = (await getSetting(store, MIRRORS)) as Partial<HubSettings> | undefined;
  let hub: HubSettings = { ...HUBS, ...mirrors };
  return {
    version,
    user_agent: navigator.userAgent,
    gpu: navigator.gpu,
    bundled: new URL('bundled/', pageAddress).href,
    get hub() {
      return hub;
    },
    async useHub(settings) {
      hub = settings;
      const { huggingface, modelscope } = settings;
      await putSetting(store, MIRRORS, { huggingface, modelscope });
    },
    reach: new Reach(),
    shelf: shelfOf(store),
    remembered: { get: (name) => getSetting(store, name), put: (name, value) => putSetting(store, name, value) },
    async ort() {
      const ort = await import('onnxruntime-web/wasm');
      // Its threads start workers from this bundle's own address, which is this worker.
      ort.env.wasm.numThreads = 1;
      return ort;
    },
    now: () => new Date(),
  };
}

function shelfOf(store: Store): Shelf {
  return {
    runs: new Runs<RunFacts, JobEvent>(store),
    keep: (runId, area) => runKeep(store, runId, area),
    folder: (runId, area) => runFolder(store, runId, area),
    through: (name, upstream) => throughStore(store, name, upstream),
    lock: withRunLock,
    tidy: async (runId) => void (await collectGarbage(store, runOwner(runId))),
    async busy() {
      const owners = await busyOwners();
      return new Set(owners.flatMap((owner) => (owner.startsWith('run:') ? [owner.slice('run:'.length)] : [])));
    },
    async sizes() {
      const kept = await listKept(store);
      const runs = kept.filter(({ owner }) => owner.startsWith('run:'));
      return new Map(runs.map(({ owner, bytes }) => [owner.slice('run:'.length), bytes]));
    },
    backup: (runId) => backUpRun(store, runId),
    restore: (file) => restoreRun(store, file),
  };
}
