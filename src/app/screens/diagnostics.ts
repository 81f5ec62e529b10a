/** What a report of a fault needs, as text: adapter, limits, versions, the last errors. None of a person's rows or words. */
import { version } from '../../../package.json';
import { device } from '../state/device.svelte.ts';
import { lastFaults } from '../state/faults.svelte.ts';
import { runs } from '../state/runs.svelte.ts';

export async function diagnostics(): Promise<string> {
  const estimate = await navigator.storage?.estimate().catch(() => undefined);
  const run = runs.current;
  return JSON.stringify(
    {
      stillroom: version,
      time: new Date().toISOString(),
      browser: navigator.userAgent,
      language: navigator.language,
      cores: navigator.hardwareConcurrency,
      secure: window.isSecureContext,
      isolated: window.crossOriginIsolated,
      webgpu: typeof device.state === 'string' ? device.state : 'found',
      adapter: device.found ?? null,
      engine: run?.adapter ?? null,
      storage: { used: estimate?.usage, quota: estimate?.quota, persisted: await navigator.storage?.persisted?.() },
      run: run && {
        state: run.state,
        step: run.now,
        error: run.error?.message,
        paused: run.paused?.why,
        plan: run.estimate,
      },
      errors: lastFaults(),
    },
    null,
    2,
  );
}
