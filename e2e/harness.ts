/**
 * What the browser tests share: the built page on the real server in a real browser, with everything that it complains of and
 * every request that leaves the machine written down; a module of the sources in an empty page; and the command line as a
 * process that can be killed.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { chromium, type BrowserContext, type Page } from 'playwright-core';
import { createServer } from 'vite';
import { inject } from 'vitest';
import { launchWithGpu } from '../src/cli/browser.ts';
import type { FoundBrowser } from '../src/cli/command.ts';
import { sendText, serve, type Route } from '../src/cli/server.ts';

declare module 'vitest' {
  interface ProvidedContext {
    root: string;
    browser: FoundBrowser;
    /** The built page's folder. */
    page: string;
    /** The built command line's folder. */
    cli: string;
    /** What Node's tests of kernels run on: `env` must stand before a process starts. */
    vulkan: { env: Record<string, string>; adapter: string };
  }
}

export interface Studio {
  readonly origin: string;
  readonly page: Page;
  readonly context: BrowserContext;
  /** Console errors and uncaught exceptions of the page, in order. */
  readonly complaints: string[];
  /** Addresses that were asked for on any other origin. */
  readonly foreign: string[];
  close(): Promise<void>;
}

/** A page that costs nothing to open, on the studio's origin: where the browser is asked for an adapter. */
const blank: Route = {
  prefix: '/__blank',
  handle: async (_request, response) => sendText(response, 200, 'blank'),
};

/**
 * @param options.address what follows the origin
 * @param options.profile a folder makes storage outlive `close`
 * @param options.folder a built page; the real one where none is given
 */
export async function openStudio(
  options: { address?: string; profile?: string; port?: number; folder?: string } = {},
): Promise<Studio> {
  const server = await serve(options.folder ?? inject('page'), {
    port: options.port ?? 0,
    host: '127.0.0.1',
    routes: [blank],
  });
  const profile = options.profile ?? (await temporaryFolder('profile'));
  const found = { browser: inject('browser'), profile, blank: `${server.origin}/__blank` };
  const { context, page } = await launchWithGpu(found);
  const complaints: string[] = [];
  const foreign: string[] = [];
  page.on('console', (message) => {
    if (message.type() === 'error') complaints.push(`${message.text()} (${message.location().url})`);
  });
  page.on('pageerror', (error) => complaints.push(error.stack ?? error.message));
  context.on('request', (request) => {
    const url = request.url();
    if (!url.startsWith(`${server.origin}/`) && !/^(data|blob):/.test(url)) foreign.push(url);
  });
  await page.goto(`${server.origin}/${options.address ?? ''}`);
  return {
    origin: server.origin,
    page,
    context,
    complaints,
    foreign,
    async close() {
      await context.close();
      await server.close();
      if (options.profile === undefined) await rm(profile, { recursive: true, force: true, maxRetries: 5 });
    },
  };
}

export interface ModuleInPage {
  /** Calls what the module exports under that name, in the page; what goes in and comes back is JSON. */
  call<T>(name: string, ...args: unknown[]): Promise<T>;
  close(): Promise<void>;
}

/**
 * A module of the sources in an empty page, in Chromium with its own SwiftShader.
 * @param entries other modules that it comes to by itself: their packages are made ready as well
 */
export async function openModule(module: string, entries: readonly string[] = []): Promise<ModuleInPage> {
  const folder = await temporaryFolder('module');
  const server = await createServer({
    root: inject('root'),
    configFile: false,
    logLevel: 'error',
    appType: 'custom',
    cacheDir: path.join(folder, 'vite'),
    worker: { format: 'es' },
    optimizeDeps: { entries: [module, ...entries], exclude: ['onnxruntime-web'] },
    server: { port: 0, host: '127.0.0.1', hmr: false, watch: null },
    plugins: [
      {
        name: 'empty-page',
        configureServer(vite) {
          vite.middlewares.use('/empty.html', (_request, response) => {
            response.setHeader('content-type', 'text/html').end('<!doctype html><title>module</title>');
          });
        },
      },
    ],
  });
  await server.listen();
  const { port } = server.httpServer!.address() as { port: number };
  const browser = inject('browser');
  const context = await chromium.launchPersistentContext(path.join(folder, 'profile'), {
    executablePath: browser.path,
    env: { ...(process.env as Record<string, string>), ...browser.env },
    args: ['--enable-unsafe-webgpu', '--use-webgpu-adapter=swiftshader', '--no-sandbox'],
    headless: true,
  });
  const page = context.pages()[0] ?? (await context.newPage());
  page.on('pageerror', (error) => console.error(error));
  await page.goto(`http://127.0.0.1:${port}/empty.html`);
  return {
    call: <T>(name: string, ...args: unknown[]) =>
      page.evaluate(`import('/${module}').then((module) => module.${name}(...${JSON.stringify(args)}))`) as Promise<T>,
    async close() {
      await context.close();
      await server.close();
      await rm(folder, { recursive: true, force: true, maxRetries: 5 });
    },
  };
}

export function temporaryFolder(name: string): Promise<string> {
  return mkdtemp(path.join(tmpdir(), `stillroom-${name}-`));
}

export interface CommandRun {
  readonly child: ChildProcess;
  /** Resolves when it ended, by itself or killed (code null). */
  readonly ended: Promise<{ code: number | null; stdout: string; stderr: string }>;
  /** What it said so far. */
  stderr(): string;
}

/** `npm start -- ARGS`, without npm in between. */
export function startCommand(args: string[], env: Record<string, string> = {}): CommandRun {
  const child = spawn(process.execPath, [path.join(inject('root'), 'scripts/start.mjs'), ...args], {
    cwd: inject('root'),
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let stdout = '';
  let stderr = '';
  child.stdout.on('data', (data) => (stdout += data));
  child.stderr.on('data', (data) => (stderr += data));
  const ended = new Promise<{ code: number | null; stdout: string; stderr: string }>((resolve) => {
    child.on('close', (code) => resolve({ code, stdout, stderr }));
  });
  return { child, ended, stderr: () => stderr };
}
