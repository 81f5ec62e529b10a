/** The page opens under its policy, complains of nothing and asks nobody else for anything. */
import { afterAll, beforeAll, expect, it } from 'vitest';
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

it('complains of nothing and asks nobody else', async () => {
  await studio.page.waitForLoadState('networkidle');
  expect(studio.complaints).toEqual([]);
  expect(studio.foreign).toEqual([]);
});
