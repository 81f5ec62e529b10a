/**
 * `npm start -- run`: the whole job in the real page, headless. The browser keeps what the run needs to go on under
 * DIR/.stillroom, and the page's storage belongs to an origin with its port: both stay the run's own until it is done, so
 * that `--resume` goes on after any death of either process.
 */
import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, readFile, readdir, rename, rm, rmdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import type { BrowserContext, Page } from 'playwright-core';
import { InputError } from '../formats/input-error.ts';
import type { HubSettings } from '../job/hub.ts';
import type { BridgeEvent } from '../job/bridge.ts';
import { parseRecipeText } from '../recipe/parse.ts';
import type { Recipe } from '../recipe/schema.ts';
import { bridgeServer, type BridgeServer } from './bridge-server.ts';
import { closeBrowser, launchWithGpu } from './browser.ts';
import { Failure, type Command, type House, type Values } from './command.ts';
import { needed } from './flags.ts';
import { progressOn, type Progress } from './progress.ts';
import { localFiles } from './recipe-files.ts';
import { serve, type Server } from './server.ts';
import type { TeacherDoor } from './teacher-door.ts';

const usage = 'run [RECIPE.json] --out DIR [--resume]';
/** What a run leaves in its folder; a folder that holds one of these is no new run's. */
const OUTPUTS = [
  'model',
  'adapter',
  'answers.jsonl',
  'report.json',
  'report.html',
  'metrics.jsonl',
  'recipe.json',
  '.stillroom',
];

export const command: Command = {
  usage,
  flags: { out: { type: 'string' }, resume: { type: 'boolean' } },
  positionals: [0, 1],
  run,
};

/** DIR/.stillroom/run.json */
interface RunState {
  /** The recipe's file, absolute: its paths are relative to it. */
  readonly recipe: string;
  /** As it was when the run began: a run is of one recipe. */
  readonly text: string;
  readonly port: number;
  readonly done: boolean;
}

async function run([recipeArgument]: string[], values: Values, house: House): Promise<number> {
  const out = path.resolve(needed(values, 'out', usage));
  const isNewFolder = !existsSync(out);
  const kept = await readState(out);
  const resume = values.resume === true && kept !== undefined;
  if (!resume) refuseUsedFolder(out, kept, values.resume === true);
  const named = recipeArgument ?? (resume ? kept.recipe : path.join(house.root, 'public/bundled/recipe.json'));
  const text = await readRecipe(named);
  if (resume && kept.text !== text) {
    throw new InputError(named, '', 'is not the recipe that this run began with', `the one in ${statePath(out)}`);
  }
  if (resume && kept.done) {
    process.stderr.write(`${out}: this run is done\n`);
    return 0;
  }
  const recipe = parseRecipeText(text, named);
  const recipeFolder = path.dirname(path.resolve(named));
  const local = localFiles(recipe, named, recipeFolder);

  const page = await house.page();
  const browser = await house.browser();
  const progress = progressOn(process.stderr);
  const token = randomBytes(24).toString('base64url');
  const ending = new Ending();
  const bridge = bridgeServer({
    token,
    start: { recipe, recipeFile: named, resume, local, hub: hubOf(process.env) },
    recipeFolder,
    outFolder: out,
    teacher: teacherDoor(recipe, process.env, (line) => progress.line(line)),
    onEvent(event) {
      progress.show(event);
      ending.hear(event);
    },
  });
  const server = await serveAgain(page, kept?.port, bridge);
  const profile = path.join(out, '.stillroom/profile');
  let context: BrowserContext | undefined;
  let outcome: Outcome;
  try {
    await mkdir(path.join(out, '.stillroom'), { recursive: true });
    await writeState(out, { recipe: path.resolve(named), text, port: server.port, done: false });
    const blank = `${server.origin}${bridge.route.prefix}blank`;
    const launched = await launchWithGpu({ browser, profile, blank });
    context = launched.context;
    watch(context, launched.page, progress, ending);
    await launched.page.goto(`${server.origin}/#/run?bridge=${token}`);
    outcome = await ending.promise;
  } catch (error) {
    outcome = { kind: 'failed', message: error instanceof Error ? error.message : String(error) };
  } finally {
    ending.close();
    await closeBrowser(context, profile);
    await server.close();
  }
  return settle(outcome, { out, isNewFolder, resume, bridge, progress, server, named, text });
}

/** As Hugging Face's and ModelScope's own tools read the environment. */
function hubOf({ HF_ENDPOINT, HF_TOKEN, MODELSCOPE_ENDPOINT }: NodeJS.ProcessEnv): Partial<HubSettings> {
  const address = (value: string): string => value.replace(/\/+$/, '');
  return {
    ...(HF_ENDPOINT && { huggingface: address(HF_ENDPOINT) }),
    ...(MODELSCOPE_ENDPOINT && { modelscope: address(MODELSCOPE_ENDPOINT) }),
    ...(HF_TOKEN && { token: HF_TOKEN }),
  };
}

/** The key goes to the address that the recipe names: a person is told so before anything does. */
function teacherDoor(
  { teacher }: Recipe,
  environment: NodeJS.ProcessEnv,
  tell: (line: string) => void,
): TeacherDoor | undefined {
  if (teacher.kind !== 'endpoint') return undefined;
  const key = environment[teacher.api_key_env] || undefined;
  if (key) tell(`the key in ${teacher.api_key_env} is sent to ${new URL(teacher.url).origin}`);
  return { url: teacher.url, key };
}

type Outcome =
  | { readonly kind: 'done' }
  | { readonly kind: 'failed'; readonly message: string }
  | { readonly kind: 'input'; readonly message: string };

/** How the run ended: by the page's word, by a death, or by a signal; the first one counts. */
class Ending {
  readonly promise: Promise<Outcome>;
  private resolve!: (outcome: Outcome) => void;
  private readonly interrupt = () => this.resolve({ kind: 'failed', message: 'interrupted' });

  constructor() {
    this.promise = new Promise((resolve) => (this.resolve = resolve));
    process.on('SIGINT', this.interrupt);
    process.on('SIGTERM', this.interrupt);
  }

  hear(event: BridgeEvent): void {
    if (event.kind === 'done') this.resolve({ kind: 'done' });
    if (event.kind === 'error') this.resolve({ kind: event.input ? 'input' : 'failed', message: event.message });
    if (event.kind === 'paused' && event.why !== 'device-lost') {
      // Nobody is there to press a button.
      this.resolve({ kind: 'failed', message: event.message ?? `the run paused (${event.why})` });
    }
  }

  fail(message: string): void {
    this.resolve({ kind: 'failed', message });
  }

  close(): void {
    process.off('SIGINT', this.interrupt);
    process.off('SIGTERM', this.interrupt);
  }
}

function watch(context: BrowserContext, page: Page, progress: Progress, ending: Ending): void {
  page.on('console', (message) => {
    if (message.type() === 'error') progress.line(`page: ${message.text()} (${message.location().url})`);
  });
  page.on('pageerror', (error) => {
    progress.line(`page: ${error.stack ?? error.message}`);
    ending.fail(`the page failed: ${error.message}`);
  });
  page.on('crash', () => ending.fail('the page crashed (out of memory?)'));
  page.on('close', () => ending.fail('the browser closed the page'));
  context.on('close', () => ending.fail('the browser died'));
}

/** The end of it: exit code, words, and what is cleared away. */
async function settle(
  outcome: Outcome,
  run: {
    out: string;
    isNewFolder: boolean;
    resume: boolean;
    bridge: BridgeServer;
    progress: Progress;
    server: Server;
    named: string;
    text: string;
  },
): Promise<number> {
  const { out } = run;
  if (outcome.kind === 'done') {
    // What the browser kept was for going on; models and caches are large.
    await writeState(out, { recipe: path.resolve(run.named), text: run.text, port: run.server.port, done: true });
    await removeFolder(path.join(out, '.stillroom/profile'));
    process.stdout.write(`${out}\n`);
    return 0;
  }
  run.progress.line(outcome.message);
  if (outcome.kind === 'input') {
    // Bad input leaves nothing behind, unless a run that had begun well did.
    if (!run.resume) {
      for (const name of run.bridge.written) await rm(path.join(out, name), { force: true });
      await removeFolder(path.join(out, '.stillroom'));
      if (run.isNewFolder) await removeEmptyFolders(out);
    }
    return 2;
  }
  run.progress.line(`to go on: npm start -- run --out ${out} --resume`);
  return 1;
}

function refuseUsedFolder(out: string, kept: RunState | undefined, resume: boolean): void {
  if (kept !== undefined) {
    throw new InputError(out, '', 'holds a run already', '--resume to go on with it, or another folder');
  }
  const there = OUTPUTS.find((name) => existsSync(path.join(out, name)));
  // A run killed before it wrote its state has nothing to go on with but this empty folder.
  if (there === undefined || (resume && there === '.stillroom')) return;
  throw new InputError(out, there, 'is there already', 'an empty or new folder');
}

async function readRecipe(file: string): Promise<string> {
  try {
    return await readFile(file, 'utf8');
  } catch (error) {
    throw new InputError(file, '', `can't be read (${(error as NodeJS.ErrnoException).code})`, 'the path of a recipe');
  }
}

/** On the run's own port: the browser's storage belongs to it. */
async function serveAgain(folder: string, port: number | undefined, bridge: BridgeServer): Promise<Server> {
  try {
    return await serve(folder, { port: port ?? 0, host: '127.0.0.1', routes: [bridge.route] });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EADDRINUSE') throw error;
    throw new Failure(
      `port ${port}, to which this run's storage belongs, is taken: is the run going on in another process? ` +
        'End that, or free the port, and resume again',
    );
  }
}

const statePath = (out: string): string => path.join(out, '.stillroom/run.json');

async function readState(out: string): Promise<RunState | undefined> {
  try {
    return JSON.parse(await readFile(statePath(out), 'utf8')) as RunState;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
}

async function writeState(out: string, state: RunState): Promise<void> {
  const aside = `${statePath(out)}.part`;
  await writeFile(aside, JSON.stringify(state, null, 2), { flush: true });
  await rename(aside, statePath(out));
}

/** A browser may still be writing its last files. */
const removeFolder = (folder: string): Promise<void> => rm(folder, { recursive: true, force: true, maxRetries: 5 });

async function removeEmptyFolders(folder: string): Promise<void> {
  for (const entry of await readdir(folder, { withFileTypes: true })) {
    if (entry.isDirectory()) await removeEmptyFolders(path.join(folder, entry.name));
  }
  await rmdir(folder).catch(() => undefined);
}
