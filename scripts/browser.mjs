/**
 * A browser with WebGPU, in this order: CHROME_PATH, an installed Chrome, Chromium or Edge, one of Playwright's,
 * the headless Chromium of @sparticuz/chromium (Linux x64), Debian's where root may install it.
 */
import { existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync } from 'node:fs';
import { homedir } from 'node:os';
import { delimiter, dirname, join } from 'node:path';
import { aptInstall, mayInstall } from './apt.mjs';
import { Complaint, hidden, run } from './house.mjs';
import { ensureTool, toolsFolder } from './tools.mjs';
import { unpackBrotli, unpackTarBrotli } from './unpack.mjs';

/** @returns {Promise<{ path: string, env: Record<string, string>, what: string }>} `env` is what it needs to start */
export async function findBrowser() {
  const asked = process.env.CHROME_PATH;
  if (asked) {
    if (!existsSync(asked))
      throw new Complaint(`CHROME_PATH: there is no ${asked}: the path of a Chrome, Chromium or Edge`);
    return { path: asked, env: {}, what: 'CHROME_PATH' };
  }
  for (const [what, paths] of [
    ['installed', hidden('browser') ? [] : installed()],
    ["Playwright's", hidden('playwright') ? [] : playwrights()],
  ]) {
    for (const path of paths) if (await starts(path)) return { path, env: {}, what };
  }
  if (process.platform === 'linux' && process.arch === 'x64' && !hidden('chromium-package')) {
    const packaged = await chromiumPackage();
    if (packaged !== undefined) return packaged;
  }
  if (mayInstall() && (await aptInstall(['chromium']))) {
    return { path: '/usr/bin/chromium', env: {}, what: 'installed just now' };
  }
  throw new Complaint(`no browser with WebGPU was found; ${howToInstall()}, or set CHROME_PATH to one`);
}

function howToInstall() {
  if (process.platform === 'darwin') return 'run: brew install --cask google-chrome';
  if (process.platform === 'win32') return 'run: winget install Google.Chrome';
  return 'run: sudo apt-get install chromium';
}

function installed() {
  if (process.platform === 'darwin') {
    const apps = ['Google Chrome', 'Chromium', 'Microsoft Edge'].map((name) => `${name}.app/Contents/MacOS/${name}`);
    return ['/Applications', join(homedir(), 'Applications')].flatMap((folder) => apps.map((app) => join(folder, app)));
  }
  if (process.platform === 'win32') {
    const apps = [
      'Google\\Chrome\\Application\\chrome.exe',
      'Chromium\\Application\\chrome.exe',
      'Microsoft\\Edge\\Application\\msedge.exe',
    ];
    const folders = ['ProgramFiles', 'ProgramFiles(x86)', 'LocalAppData'].flatMap((name) => process.env[name] ?? []);
    return apps.flatMap((app) => folders.map((folder) => join(folder, app)));
  }
  const names = [
    'google-chrome-stable',
    'google-chrome',
    'chromium',
    'chromium-browser',
    'microsoft-edge-stable',
    'microsoft-edge',
  ];
  const folders = (process.env.PATH ?? '').split(delimiter).filter((folder) => folder !== '');
  return names.flatMap((name) => folders.map((folder) => join(folder, name)));
}

function playwrights() {
  const folder =
    process.env.PLAYWRIGHT_BROWSERS_PATH ||
    {
      darwin: join(homedir(), 'Library/Caches/ms-playwright'),
      win32: join(process.env.LocalAppData ?? homedir(), 'ms-playwright'),
    }[process.platform] ||
    join(homedir(), '.cache/ms-playwright');
  if (!existsSync(folder)) return [];
  const revision = (name) => Number(name.split('-').pop());
  return readdirSync(folder)
    .filter((name) => /^chromium(_headless_shell)?-\d+$/.test(name))
    .sort((a, b) => revision(b) - revision(a) || a.length - b.length)
    .flatMap((name) =>
      [
        'chrome-linux/chrome',
        'chrome-linux64/chrome',
        'chrome-linux/headless_shell',
        'chrome-headless-shell-linux64/chrome-headless-shell',
        'chrome-mac/Chromium.app/Contents/MacOS/Chromium',
        'chrome-mac-arm64/Google Chrome for Testing.app/Contents/MacOS/Google Chrome for Testing',
        'chrome-mac-x64/Google Chrome for Testing.app/Contents/MacOS/Google Chrome for Testing',
        'chrome-win/chrome.exe',
        'chrome-win64/chrome.exe',
      ].map((path) => join(folder, name, path)),
    );
}

/** On Linux a browser may lie there and miss libraries; elsewhere what is there starts (and Windows' has no --version). */
async function starts(path, env = {}) {
  if (!existsSync(path)) return false;
  if (process.platform !== 'linux') return true;
  return (await run(path, ['--version'], { quiet: true, env, timeout: 15_000 })).code === 0;
}

async function chromiumPackage() {
  const source = join(await ensureTool('chromium'), 'bin');
  const folder = join(toolsFolder(), 'chromium');
  const path = join(folder, 'chromium');
  if (!existsSync(path)) {
    mkdirSync(toolsFolder(), { recursive: true });
    const aside = mkdtempSync(join(toolsFolder(), 'chromium-'));
    await unpackBrotli(join(source, 'chromium.br'), join(aside, 'chromium'), 0o755);
    unpackTarBrotli(join(source, 'swiftshader.tar.br'), aside);
    unpackTarBrotli(join(source, 'al2023.tar.br'), join(aside, 'bare'));
    unpackTarBrotli(join(source, 'fonts.tar.br'), join(aside, 'fonts'));
    rmSync(folder, { recursive: true, force: true });
    mkdirSync(dirname(folder), { recursive: true });
    renameSync(aside, folder);
  }
  const fonts = existsSync('/etc/fonts') ? {} : { FONTCONFIG_PATH: join(folder, 'fonts') };
  const what = '@sparticuz/chromium';
  if (await starts(path, fonts)) return { path, env: fonts, what };
  // A bare machine has no nss, nspr, expat: the package brings them.
  const libraries = [join(folder, 'bare/lib'), process.env.LD_LIBRARY_PATH].filter(Boolean).join(':');
  const env = { ...fonts, LD_LIBRARY_PATH: libraries };
  return (await starts(path, env)) ? { path, env, what } : undefined;
}
