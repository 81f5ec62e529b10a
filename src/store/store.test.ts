/** The store's promises in a real browser, and after killing one. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { chromium, type BrowserContext, type Page } from 'playwright-core';
import { createServer, type ViteDevServer } from 'vite';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { findBrowser } from '../../scripts/browser.mjs';
import * as scenarios from './scenarios.testing.ts';

let server: ViteDevServer;
let address: string;
let profile: string;
let context: BrowserContext;
let page: Page;

async function launch(): Promise<void> {
  const browser = await findBrowser();
  context = await chromium.launchPersistentContext(profile, {
    executablePath: browser.path,
    env: { ...process.env, ...browser.env } as Record<string, string>,
    args: ['--no-sandbox'],
    headless: true,
  });
  page = context.pages()[0] ?? (await context.newPage());
  await page.goto(`${address}/src/store/empty.html`);
}

const call = (name: string): Promise<unknown> =>
  page.evaluate(`import('/src/store/scenarios.testing.ts').then((module) => module[${JSON.stringify(name)}]())`);

beforeAll(async () => {
  profile = await mkdtemp(join(tmpdir(), 'stillroom-store-'));
  server = await createServer({
    configFile: false,
    logLevel: 'error',
    appType: 'custom',
    cacheDir: join(profile, 'vite'),
    optimizeDeps: { noDiscovery: true },
    server: { port: 0, host: '127.0.0.1', hmr: false, watch: null },
    plugins: [
      {
        name: 'empty-page',
        configureServer(vite) {
          vite.middlewares.use('/src/store/empty.html', (_request, response) => {
            response.setHeader('content-type', 'text/html').end('<!doctype html><title>0</title>');
          });
        },
      },
    ],
  });
  await server.listen();
  const { port } = server.httpServer!.address() as { port: number };
  address = `http://127.0.0.1:${port}`;
  await launch();
});

afterAll(async () => {
  await context?.close();
  await server?.close();
  if (profile) await rm(profile, { recursive: true, force: true });
});

describe('the store, in a browser', () => {
  const apart = ['aFullDiskIsSaid', 'writeForEver', 'readAfterKill'];
  it.each(Object.keys(scenarios).filter((name) => !apart.includes(name)))('%s', async (name) => {
    await call(name);
  });

  it('aFullDiskIsSaid', async () => {
    // Chromium remembers for half a minute how much room an open database has: a new origin is asked at once.
    const other = address.replace('127.0.0.1', 'localhost');
    const small = await context.newPage();
    const devtools = await context.newCDPSession(small);
    await devtools.send('Storage.overrideQuotaForOrigin', { origin: other, quotaSize: 20 << 20 });
    await small.goto(`${other}/src/store/empty.html`);
    await small.evaluate(`import('/src/store/scenarios.testing.ts').then((module) => module.aFullDiskIsSaid())`);
    await small.close();
  });

  it('a second tab cannot take the lock of a run that the first holds', async () => {
    const hold = `import('/src/store/locks.ts').then(({ withRunLock }) => new Promise((held) => {
      void withRunLock('shared', () => new Promise((free) => { window.free = free; held(); }));
    }))`;
    const ask = `import('/src/store/locks.ts').then(({ withRunLock }) =>
      withRunLock('shared', async () => 'mine', 300).catch((error) => error.name + ': ' + error.message))`;
    await page.evaluate(hold);
    const other = await context.newPage();
    await other.goto(`${address}/src/store/empty.html`);
    expect(await other.evaluate(ask)).toMatch(/^Busy: .*another tab/);
    await page.evaluate('window.free()');
    expect(await other.evaluate(ask)).toBe('mine');
    await other.close();
  });

  it('a browser killed while it writes keeps both halves of a put, or neither', async () => {
    for (let round = 0; round < 2; round++) {
      void call('writeForEver').catch(() => undefined);
      await page.waitForFunction('Number(document.title) > 5');
      await new Promise((resolve) => setTimeout(resolve, 100 + 150 * round));
      const seen = Number(await page.title());
      await killBrowser();
      await launch();
      expect(await call('readAfterKill')).toBeGreaterThanOrEqual(seen);
    }
  });
});

/** -9 for every process of the browser: its main process cannot say goodbye, its helpers follow it. */
async function killBrowser(): Promise<void> {
  const devtools = await context.browser()!.newBrowserCDPSession();
  const { processInfo } = await devtools.send('SystemInfo.getProcessInfo');
  const gone = new Promise((resolve) => context.once('close', resolve));
  for (const { id, type } of processInfo) if (type === 'browser') process.kill(id, 'SIGKILL');
  await gone;
}
