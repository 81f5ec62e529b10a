/**
 * `npm start -- COMMAND ...`: brings what the command needs (packages, build, browser, Vulkan), then hands over to the built
 * command line (src/cli/main.ts). Plain Node without dependencies: on a fresh clone it is the first thing that runs.
 */
import { spawn } from 'node:child_process';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { join } from 'node:path';
import { findBrowser } from './browser.mjs';
import { ensureBuilt } from './build.mjs';
import { Complaint, root, say } from './house.mjs';
import { ensureInstall } from './install.mjs';
import { toolsFolder } from './tools.mjs';
import { findVulkan } from './vulkan.mjs';

/** What src/cli asks of the scripts; its type is `House` in src/cli/command.ts. */
const house = { root, page: () => ensureBuilt('page'), browser };

async function browser() {
  const found = await findBrowser();
  say(`browser: ${found.path} (${found.what})`);
  return found;
}

async function start(argv) {
  await ensureInstall();
  const cli = await ensureBuilt('cli');
  const { main, needsGpu } = await import(pathToFileURL(join(cli, 'main.js')).href);
  if (needsGpu(argv) && !process.env.STILLROOM_GPU_READY) {
    const { env, what, adapter } = await findVulkan();
    say(`Vulkan: ${adapter} (${what})`);
    // The dynamic loader reads LD_LIBRARY_PATH once, when a process starts.
    if (Object.keys(env).length > 0) return again(argv, { ...env, STILLROOM_GPU_READY: '1' });
  }
  return main(argv, house);
}

function again(argv, env) {
  const child = spawn(process.execPath, [fileURLToPath(import.meta.url), ...argv], {
    stdio: 'inherit',
    env: { ...process.env, ...env },
  });
  for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => child.kill(signal));
  return new Promise((done) => child.on('close', (code) => done(code ?? 1)));
}

// npm runs scripts in the project's folder; the paths of a command are meant from where the person stands.
if (process.env.npm_lifecycle_event === 'start' && process.env.INIT_CWD) process.chdir(process.env.INIT_CWD);
// Where src/cli/node-gpu.ts looks for Dawn.
process.env.STILLROOM_TOOLS = toolsFolder();
try {
  const code = await start(process.argv.slice(2));
  // Dawn's threads and open sockets must not keep a finished command alive.
  process.stdout.write('', () => process.exit(code));
} catch (error) {
  say(error instanceof Complaint ? error.message : (error.stack ?? String(error)));
  process.exit(1);
}
