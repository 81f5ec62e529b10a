/** Small things that outlive a page: the recipe being edited, measured kernels, the language. */
import type { Store } from './store.ts';

export const getSetting = (store: Store, name: string): Promise<unknown> =>
  store.read(['settings'], (tx) => tx.store.get(name));

export const putSetting = (store: Store, name: string, value: unknown): Promise<void> =>
  store.write(['settings'], 'relaxed', async (tx) => void (await tx.store.put(value, name)));
