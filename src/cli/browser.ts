/**
 * A headless browser with a GPU adapter and a profile of its own, whose page is watched: what it prints, that it lives.
 * The profile outlives every process; a browser that an earlier, killed run left holding it is ended first.
 */
import { existsSync } from 'node:fs';
import { mkdir, readFile, readdir, rm } from 'node:fs/promises';
import path from 'node:path';
import { promisify } from 'node:util';
import { execFile } from 'node:child_process';
import type { BrowserContext, Page } from 'playwright-core';
import type { FoundBrowser } from './command.ts';

const FLAGS = [
  '--enable-unsafe-webgpu',
  // A page that nobody looks at works as fast as one in front.
  '--disable-background-timer-throttling',
  '--disable-renderer-backgrounding',
  '--disable-backgrounding-occluded-windows',
];
const REAL_GPU = process.platform === 'linux' ? ['--enable-features=Vulkan', '--use-angle=vulkan'] : [];
/** A browser that has storage to flush takes a second or two. */
const PATIENCE_MS = 15_000;
const SOFTWARE_GPU = ['--use-webgpu-adapter=swiftshader'];

export interface LaunchOptions {
  readonly browser: FoundBrowser;
  readonly profile: string;
  /** An address of the page's origin that costs nothing to open: the adapter is asked for there. */
  readonly blank: string;
}

/** A browser whose page has a GPU adapter: a real one where there is one, else SwiftShader. */
export async function launchWithGpu(options: LaunchOptions): Promise<{ context: BrowserContext; page: Page }> {
  for (const flags of hasGpuDevice() ? [REAL_GPU, SOFTWARE_GPU] : [SOFTWARE_GPU]) {
    const context = await launch(options, flags);
    const page = context.pages()[0] ?? (await context.newPage());
    await page.goto(options.blank);
    const found = await page.evaluate(async () => Boolean(await navigator.gpu?.requestAdapter()));
    // Without an adapter the page says so itself, in its own words.
    if (found || flags === SOFTWARE_GPU) return { context, page };
    await context.close();
  }
  throw new Error('no set of flags was left to try');
}

async function launch({ browser, profile }: LaunchOptions, flags: string[]): Promise<BrowserContext> {
  const { chromium } = await import('playwright-core');
  await mkdir(profile, { recursive: true });
  await endBrowsersOf(profile);
  return chromium.launchPersistentContext(profile, {
    executablePath: browser.path,
    headless: true,
    args: [...FLAGS, ...flags],
    env: { ...(process.env as Record<string, string>), ...browser.env },
    handleSIGINT: false,
    handleSIGTERM: false,
    handleSIGHUP: false,
  });
}

/** Closes in order, so that storage is flushed; a browser that does not answer is ended all the same. */
export async function closeBrowser(context: BrowserContext | undefined, profile: string): Promise<void> {
  const patience = new Promise((resolve) => setTimeout(resolve, PATIENCE_MS).unref());
  await Promise.race([context?.close().catch(() => undefined), patience]);
  await endBrowsersOf(profile);
}

/** Linux lists what renders; elsewhere there is always something. */
function hasGpuDevice(): boolean {
  return process.platform !== 'linux' || existsSync('/dev/dri') || existsSync('/dev/nvidia0') || existsSync('/dev/dxg');
}

/**
 * Chromium is a process group of its own: it outlives a Node process that is killed, holding its profile. Only processes
 * that were started with this very profile are ended.
 */
export async function endBrowsersOf(profile: string): Promise<void> {
  const mine = async () => {
    const all = await commandLines();
    return all.filter(({ args }) => args.includes(`--user-data-dir=${profile}`)).map(({ pid }) => pid);
  };
  for (let tries = 0; tries < 50; tries++) {
    const pids = await mine();
    if (pids.length === 0) break;
    for (const pid of pids) {
      try {
        process.kill(pid, 'SIGKILL');
      } catch {
        // It ended by itself meanwhile.
      }
    }
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  for (const name of ['SingletonLock', 'SingletonCookie', 'SingletonSocket']) {
    await rm(path.join(profile, name), { force: true });
  }
}

/** Every process with its arguments; Windows ends the browser with its parent, and there is nothing to look for. */
async function commandLines(): Promise<{ pid: number; args: string[] }[]> {
  if (process.platform === 'win32') return [];
  if (process.platform === 'linux') {
    const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name));
    const lines = await Promise.all(
      pids.map(async (pid) => {
        const text = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
        // Chromium's children rewrite theirs as one string.
        return { pid: Number(pid), args: text.split(/\0| (?=--)/) };
      }),
    );
    return lines;
  }
  const { stdout } = await promisify(execFile)('ps', ['-axo', 'pid=,command='], { maxBuffer: 1 << 26 });
  return stdout.split('\n').map((line) => {
    const [pid = '', ...words] = line.trim().split(/ +/);
    return { pid: Number(pid), args: words.join(' ').split(/ (?=--)/) };
  });
}
