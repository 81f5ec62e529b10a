/** The page opens under its policy, is small, complains of nothing and asks nobody else for anything. */
import { gzipSync } from 'node:zlib';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { recipeToFragment } from '../src/recipe/share.ts';
import { openStudio, type Studio } from './harness.ts';

let studio: Studio;

beforeAll(async () => {
  studio = await openStudio();
});
afterAll(() => studio?.close());

it('shows itself', async () => {
  expect(await studio.page.title()).toContain('Stillroom');
  expect((await studio.page.innerText('body')).trim()).not.toBe('');
});

it('runs isolated, with a GPU adapter, and under a policy that forbids inline scripts', async () => {
  expect(await studio.page.evaluate(() => crossOriginIsolated)).toBe(true);
  expect(await studio.page.evaluate(async () => Boolean(await navigator.gpu.requestAdapter()))).toBe(true);
  const response = await studio.page.request.get(`${studio.origin}/`);
  const policy = response.headers()['content-security-policy'] ?? '';
  expect(policy).toContain("script-src 'self' 'wasm-unsafe-eval';");
  expect(policy).not.toContain('unsafe-eval;');
});

it('brings at most 250 KB, as a site that compresses would send it', async () => {
  const sizes: Promise<[string, number]>[] = [];
  studio.page.on('response', (response) => {
    const packed = response.body().then((body): [string, number] => [response.url(), gzipSync(body).length]);
    // What came from the browser's cache or was given up has no body, and costs nothing.
    sizes.push(packed.catch((): [string, number] => [response.url(), 0]));
  });
  await studio.page.goto('about:blank');
  await studio.page.goto(`${studio.origin}/`, { waitUntil: 'networkidle' });
  const files = Object.fromEntries(await Promise.all(sizes));
  const total = Object.values(files).reduce((sum, bytes) => sum + bytes, 0);
  expect(Object.keys(files).some((url) => url.endsWith('.js'))).toBe(true);
  expect(total, JSON.stringify(files, null, 2)).toBeLessThanOrEqual(250_000);
});

it('draws its curves where the system speaks no language', async () => {
  const page = await studio.context.newPage();
  // what Chrome says in a container
  await page.addInitScript(() =>
    Object.defineProperty(Navigator.prototype, 'language', { get: () => 'en-US@posix', configurable: true }),
  );
  await page.goto(`${studio.origin}/#/train`);
  await page.getByRole('heading', { level: 1 }).waitFor();
  await page.close();
});

it('shows the bundled rows without a network, once it has shown them in its first visit', async () => {
  const page = await studio.context.newPage();
  await page.goto(`${studio.origin}/`);
  await page.waitForFunction(() => navigator.serviceWorker.controller !== null);
  const row = page.getByText(/\d+ [+−-] \d+ = \?/).first();
  const recipe = { student: { model: 'bundled:arithmetic' }, data: { source: 'bundled:arithmetic/rows.jsonl' } };
  await page.goto(`${studio.origin}/#${await recipeToFragment(recipe)}`);
  await row.waitFor();
  await studio.context.setOffline(true);
  try {
    await page.reload();
    await row.waitFor();
  } finally {
    await studio.context.setOffline(false);
    await page.close();
  }
});

it('complains of nothing and asks nobody else', async () => {
  await studio.page.waitForLoadState('networkidle');
  expect(studio.complaints).toEqual([]);
  expect(studio.foreign).toEqual([]);
});
