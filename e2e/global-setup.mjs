/** Before the browser tests: the page and the command line as their sources are now, a browser, and Node's own GPU. */
import { findBrowser } from '../scripts/browser.mjs';
import { ensureBuilt } from '../scripts/build.mjs';
import { root } from '../scripts/house.mjs';
import { toolsFolder } from '../scripts/tools.mjs';
import { findTestVulkan } from '../scripts/vulkan.mjs';

/** @param {import('vitest/node').TestProject} project */
export default async function setup(project) {
  project.provide('root', root);
  project.provide('browser', await findBrowser());
  project.provide('page', await ensureBuilt('page'));
  project.provide('cli', await ensureBuilt('cli'));
  const { env, adapter } = await findTestVulkan();
  project.provide('vulkan', { env: { ...env, STILLROOM_TOOLS: toolsFolder() }, adapter });
}
