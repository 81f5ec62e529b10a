/**
 * The service worker: the page without a network, and new versions that wait. It is registered once the first screen is
 * there; a page that the command line drives has none.
 */
/// <reference types="vite-plugin-pwa/vanillajs" />
import { registerSW } from 'virtual:pwa-register';

let waiting = $state(false);
let reload: ((now: boolean) => Promise<void>) | undefined;

export const update = {
  /** A newer version is ready; it takes over when the person says so. */
  get waiting() {
    return waiting;
  },
  take: async (): Promise<void> => reload?.(true),
};

export function registerOffline(): void {
  if (!('serviceWorker' in navigator)) return;
  reload = registerSW({ onNeedRefresh: () => (waiting = true) });
}
