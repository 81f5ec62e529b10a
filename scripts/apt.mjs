/** Debian's packages, where root may install them. Never asks; a minute or three at most. */
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { hidden, isRoot, run, say } from './house.mjs';

export const mayInstall = () =>
  process.platform === 'linux' && isRoot() && existsSync('/usr/bin/apt-get') && !hidden('apt');

/** @param {{ backports?: string }} options backports of this Debian release, added for this call only */
export async function aptInstall(packages, { backports } = {}) {
  say(`installing ${packages.join(' ')} (apt-get) ...`);
  const aside = mkdtempSync(join(tmpdir(), 'stillroom-apt-'));
  try {
    const options = [
      '-qq',
      '-o',
      'Acquire::Retries=1',
      '-o',
      'Acquire::http::Timeout=20',
      '-o',
      'DPkg::Lock::Timeout=60',
    ];
    if (backports !== undefined) {
      const list = join(aside, 'sources.list');
      const own = existsSync('/etc/apt/sources.list') ? readFileSync('/etc/apt/sources.list', 'utf8') : '';
      writeFileSync(list, `${own}\n${backportsLine(backports)}\n`);
      options.push('-o', `Dir::Etc::sourcelist=${list}`);
    }
    const target = backports === undefined ? [] : ['-t', `${backports}-backports`];
    const settings = { quiet: true, timeout: 240_000, env: { DEBIAN_FRONTEND: 'noninteractive' } };
    // A broken third-party list makes `update` fail though Debian's own came: what counts is the install.
    await run('apt-get', [...options, 'update'], settings);
    const install = ['install', '-y', '--no-install-recommends', ...target, ...packages];
    const { code, output } = await run('apt-get', [...options, ...install], settings);
    if (code !== 0) say(`apt-get: ${output.trim().split('\n').pop()}`);
    return code === 0;
  } finally {
    rmSync(aside, { recursive: true, force: true });
  }
}

/** The mirror that this machine uses already, with its key. */
function backportsLine(release) {
  let mirror = 'http://deb.debian.org/debian';
  const folder = '/etc/apt/sources.list.d';
  const files = [
    '/etc/apt/sources.list',
    ...(existsSync(folder) ? readdirSync(folder).map((name) => join(folder, name)) : []),
  ];
  for (const file of files.filter((name) => existsSync(name))) {
    const found = /^(?:URIs:|deb(?: \[.*?\])?)\s+(\S+\/debian)\/?\s/m.exec(readFileSync(file, 'utf8'));
    if (found) mirror = found[1];
  }
  return `deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] ${mirror} ${release}-backports main`;
}

/** VERSION_CODENAME of /etc/os-release where this is Debian. */
export function debianRelease() {
  if (!existsSync('/etc/os-release')) return undefined;
  const text = readFileSync('/etc/os-release', 'utf8');
  return /^ID=debian$/m.test(text) ? /^VERSION_CODENAME=(\w+)$/m.exec(text)?.[1] : undefined;
}
