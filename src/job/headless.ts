/**
 * A run that the command line drives: recipe and files come over the bridge, outputs, metrics and events go back over it.
 * What must survive lies in this browser profile under one name, as a profile is one run's own.
 */
import type { Bridge, BridgeStart } from './bridge.ts';
import type { Host, LocalFiles, Outlet } from './host.ts';
import type { JobEvent } from './protocol.ts';
import { newRun, type RunFacts } from './run-facts.ts';

export const HEADLESS = 'headless';

/** The kept run where the command line resumes it, else a new one. */
export async function headlessRun({ shelf, now }: Host, start: BridgeStart): Promise<RunFacts> {
  const kept = start.resume ? await shelf.runs.get(HEADLESS) : undefined;
  if (kept) return kept.facts;
  return shelf.lock(HEADLESS, async () => {
    await shelf.runs.delete(HEADLESS);
    const facts = newRun(HEADLESS, start.recipe, start.recipeFile, now());
    await shelf.runs.put(HEADLESS, facts.created, facts);
    return facts;
  });
}

export interface BridgeDriver {
  readonly outlet: Outlet;
  readonly files: LocalFiles;
  hear(event: JobEvent): void;
  /** Resolves when the command line has heard everything. */
  heard(): Promise<void>;
}

export function bridgeDriver(bridge: Bridge): BridgeDriver {
  let last: Promise<void> = Promise.resolve();
  const lines = (all: readonly string[]): string => all.map((line) => `${line}\n`).join('');
  return {
    hear(event) {
      last = bridge.event(event);
      last.catch(() => undefined); // `heard` tells
    },
    heard: () => last,
    outlet: {
      write: (path, bytes) => bridge.write(path, bytes),
      open: (path) => bridge.written(path),
      metrics: (all) => bridge.write('metrics.jsonl', new TextEncoder().encode(lines(all))),
      metric: (line) => bridge.append('metrics.jsonl', line),
    },
    files: {
      has: (value) => bridge.start.local.includes(value),
      folder: (value) => bridge.folder(value),
      file: (value) => bridge.file(value),
    },
  };
}
