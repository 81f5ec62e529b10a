/**
 * `npm test`: everything, from a fresh clone. Brings packages, browser and Vulkan, then types and lint, unit and property
 * tests, the page in a real browser. The last line is `N passed, N failed`; exit 1 if anything failed.
 */
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { findBrowser } from './browser.mjs';
import { ensureBuilt } from './build.mjs';
import { Complaint, root, run, say } from './house.mjs';
import { ensureInstall } from './install.mjs';
import { bringRealModels } from './real-models.mjs';
import { toolsFolder } from './tools.mjs';
import { findTestVulkan } from './vulkan.mjs';

const started = Date.now();
const aside = mkdtempSync(join(tmpdir(), 'stillroom-test-'));
const total = { passed: 0, failed: 0, skipped: 0 };

async function test() {
  await ensureInstall();
  const vulkan = await findTestVulkan();
  const browser = await findBrowser();
  say(`Vulkan: ${vulkan.adapter} (${vulkan.what}); browser: ${browser.path} (${browser.what})`);
  process.env.STILLROOM_TOOLS = toolsFolder();
  await bringRealModels();

  await part('check', async () => {
    const { code } = await run(process.execPath, [join(root, 'scripts/check.mjs')]);
    return code === 0 ? { passed: 1, failed: 0, skipped: 0 } : { passed: 0, failed: 1, skipped: 0 };
  });
  await part('unit tests', () => vitest('vitest.config.ts', vulkan.env));
  await ensureBuilt('page');
  // The browser brings its own driver: the libraries that Node's takes would hide it.
  await part('page in a browser', () => vitest('e2e/vitest.config.ts', {}));
}

async function part(name, action) {
  const since = Date.now();
  const counts = await action();
  for (const key of Object.keys(total)) total[key] += counts[key];
  say(`${name}: ${summary(counts)} in ${((Date.now() - since) / 1000).toFixed(0)} s`);
}

async function vitest(config, env) {
  const file = join(aside, 'counts.json');
  rmSync(file, { force: true });
  const script = join(root, 'node_modules/vitest/vitest.mjs');
  const { code } = await run(process.execPath, [script, 'run', '--config', config], {
    env: { ...env, STILLROOM_TEST_COUNTS: file },
  });
  const counts = existsSync(file) ? JSON.parse(readFileSync(file, 'utf8')) : { passed: 0, failed: 0, skipped: 0 };
  // It failed without a failed test: it did not come to an end, say.
  if (code !== 0 && counts.failed === 0) counts.failed = 1;
  return counts;
}

const summary = ({ passed, failed, skipped }) =>
  `${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ''}`;

try {
  await test();
} catch (error) {
  say(error instanceof Complaint ? error.message : error.stack);
  total.failed++;
} finally {
  rmSync(aside, { recursive: true, force: true });
}
say(`${((Date.now() - started) / 60_000).toFixed(1)} minutes`);
process.stdout.write(`${summary(total)}\n`, () => process.exit(total.failed === 0 ? 0 : 1));
