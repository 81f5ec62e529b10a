/** Before the browser tests: the page and the command line as their sources are now, and a browser. */
import { findBrowser } from '../scripts/browser.mjs';
import { ensureBuilt } from '../scripts/build.mjs';
import { root } from '../scripts/house.mjs';

/** @param {import('vitest/node').TestProject} project */
export default async function setup(project) {
  project.provide('root', root);
  project.provide('browser', await findBrowser());
  project.provide('page', await ensureBuilt('page'));
  project.provide('cli', await ensureBuilt('cli'));
}
