/** node_modules as package-lock.json says, installed only where it differs. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Complaint, npm, root, say } from './house.mjs';

export async function ensureInstall() {
  const [major, minor] = process.versions.node.split('.').map(Number);
  if (major < 20 || (major === 20 && minor < 19)) {
    throw new Complaint(
      `Node ${process.versions.node} is too old: Stillroom needs 20.19 or newer (https://nodejs.org)`,
    );
  }
  if (isInstalled()) return;
  say('installing packages (npm ci) ...');
  const { code, output } = await npm(['ci', '--no-audit', '--no-fund', '--loglevel=error'], { quiet: true });
  if (code !== 0) {
    throw new Complaint(
      `${output.trim()}\nThe packages of package-lock.json could not be installed. ` +
        'They come from the npm registry: with a connection to it, run: npm ci',
    );
  }
}

/** npm writes node_modules/.package-lock.json last: what stands there is there whole. */
function isInstalled() {
  const wanted = JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8')).packages;
  let there;
  try {
    there = JSON.parse(readFileSync(join(root, 'node_modules/.package-lock.json'), 'utf8')).packages;
  } catch {
    return false;
  }
  // Optional ones are for other platforms, mostly.
  return Object.entries(wanted).every(
    ([place, { version, optional, devOptional }]) =>
      place === '' || optional || devOptional || there[place]?.version === version,
  );
}
