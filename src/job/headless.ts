/**
 * A run that the command line drives: recipe and files come over the bridge, outputs, metrics and events go back over it.
 * What must survive lies in this browser profile under one name, as a profile is one run's own.
 */
import { ActiveRun } from './active-run.ts';
import { openBridge, type Bridge } from './bridge.ts';
import type { Host, LocalFiles, Outlet } from './host.ts';
import type { JobEvent } from './protocol.ts';
import { newRun } from './run-facts.ts';

const RUN = 'headless';

/** Resolves when the command line has heard the last event. */
export async function runHeadless(
  host: Host,
  token: string,
  onEvent: (event: JobEvent) => void,
  sit: (run: ActiveRun) => Promise<void>,
): Promise<void> {
  const bridge = await openBridge(token);
  const { start } = bridge;
  let heard: Promise<void> = Promise.resolve();
  const tell = (event: JobEvent): void => {
    onEvent(event);
    heard = bridge.event(event);
    heard.catch(() => undefined); // the last one is awaited; a command line that is gone ends the browser anyway
  };
  const { runs, lock } = host.shelf;
  try {
    await lock(RUN, async () => {
      const kept = start.resume ? await runs.get(RUN) : undefined;
      if (!kept) await runs.delete(RUN);
      const facts = kept?.facts ?? newRun(RUN, start.recipe, start.recipeFile, host.now());
      if (!kept) await runs.put(RUN, facts.created, facts);
      await sit(new ActiveRun(host, facts, bridgeOutlet(bridge), bridgeFiles(bridge), tell));
    });
  } catch (error) {
    tell({ kind: 'error', input: false, message: error instanceof Error ? error.message : String(error) });
  }
  await heard;
}

function bridgeOutlet(bridge: Bridge): Outlet {
  return {
    write: (path, bytes) => bridge.write(path, bytes),
    open: (path) => bridge.written(path),
    metrics: (lines) =>
      bridge.write('metrics.jsonl', new TextEncoder().encode(lines.map((line) => `${line}\n`).join(''))),
    metric: (line) => bridge.append('metrics.jsonl', line),
  };
}

function bridgeFiles(bridge: Bridge): LocalFiles {
  return {
    has: (value) => bridge.start.local.includes(value),
    folder: (value) => bridge.folder(value),
    file: (value) => bridge.file(value),
  };
}
