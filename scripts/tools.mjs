/**
 * Heavy packages that only some commands use, fetched when first used: pinned with their hashes in
 * scripts/tools/NAME/package-lock.json, kept in .cache/tools (or where STILLROOM_TOOLS says, to share one between clones).
 */
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { Complaint, npm, root, say } from './house.mjs';

export const toolsFolder = () => process.env.STILLROOM_TOOLS || join(root, '.cache/tools');

const TOOLS = {
  webgpu: { package: 'webgpu', what: 'WebGPU for Node, 132 MB' },
  chromium: { package: '@sparticuz/chromium', what: 'a headless Chromium, 66 MB' },
};

/** The folder of the package, fetched if it is missing. */
export async function ensureTool(name) {
  const { package: id, what } = TOOLS[name];
  const pinned = join(root, 'scripts/tools', name);
  const version = JSON.parse(readFileSync(join(pinned, 'package-lock.json'), 'utf8')).packages[`node_modules/${id}`]
    .version;
  const folder = join(toolsFolder(), 'node_modules', id);
  if (versionOf(folder) === version) return folder;

  say(`fetching ${id} ${version} (${what}) ...`);
  mkdirSync(toolsFolder(), { recursive: true });
  // Fetched aside and moved in one step: an interrupted fetch leaves nothing that looks whole.
  const aside = mkdtempSync(join(toolsFolder(), `${name}-`));
  try {
    cpSync(pinned, aside, { recursive: true });
    const flags = ['ci', '--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error'];
    const { code, output } = await npm(flags, { cwd: aside, quiet: true });
    if (code !== 0) {
      throw new Complaint(
        `${output.trim()}\n${id} ${version} could not be fetched from the npm registry. With a connection to it, run: npm test`,
      );
    }
    rmSync(folder, { recursive: true, force: true });
    mkdirSync(dirname(folder), { recursive: true });
    renameSync(join(aside, 'node_modules', id), folder);
  } catch (error) {
    // Another start may have brought it meanwhile.
    if (versionOf(folder) !== version) throw error;
  } finally {
    rmSync(aside, { recursive: true, force: true });
  }
  return folder;
}

function versionOf(folder) {
  const file = join(folder, 'package.json');
  return existsSync(file) ? JSON.parse(readFileSync(file, 'utf8')).version : undefined;
}
