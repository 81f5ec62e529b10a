/** The bench as the page runs it: its screen is opened in a headless browser, its button pressed, its table read. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import type { BrowserContext } from 'playwright-core';
import type { BenchReport, BenchResult, Suite } from '../job/bench/protocol.ts';
import { closeBrowser, launchWithGpu } from './browser.ts';
import { Failure, type House } from './command.ts';
import { serve } from './server.ts';

const POLL_MS = 2000;

export async function benchInBrowser(
  house: House,
  suites: readonly Suite[],
  onResult: (result: BenchResult) => void,
): Promise<BenchReport> {
  const folder = await house.page();
  const browser = await house.browser();
  const server = await serve(folder, { port: 0, host: '127.0.0.1' });
  const profile = await mkdtemp(path.join(tmpdir(), 'stillroom-bench-'));
  let context: BrowserContext | undefined;
  try {
    const launched = await launchWithGpu({ browser, profile, blank: `${server.origin}/icon.svg` });
    context = launched.context;
    const { page } = launched;
    await page.goto(`${server.origin}/#/bench`);
    for (const box of await page.getByRole('checkbox').all()) {
      await box.setChecked(suites.includes((await box.getAttribute('value')) as Suite));
    }
    await page.getByRole('main').getByRole('button').first().click();
    const report = page.locator('[data-report]');
    const alert = page.getByRole('main').getByRole('alert');
    const heard = page.locator('[data-results]');
    let told = 0;
    // the page shows a figure as it is measured; so does the command line, as some are minutes apart
    for (;;) {
      const done = (await report.or(alert).count()) > 0;
      if ((await heard.count()) > 0) {
        const results = JSON.parse((await heard.getAttribute('data-results'))!) as BenchResult[];
        results.slice(told).forEach(onResult);
        told = results.length;
      }
      if (done) break;
      await page.waitForTimeout(POLL_MS);
    }
    if ((await alert.count()) > 0) throw new Failure(await alert.first().innerText());
    return JSON.parse((await report.getAttribute('data-report'))!) as BenchReport;
  } finally {
    await closeBrowser(context, profile);
    await server.close();
    await rm(profile, { recursive: true, force: true });
  }
}
