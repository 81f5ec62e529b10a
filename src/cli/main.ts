/** The table of commands: argv ─▶ a command ─▶ an exit code (0 done, 1 failed while working, 2 bad input). */
import { EngineError } from '../engine/errors.ts';
import { InputError } from '../formats/input-error.ts';
import { Failure, say, type Command, type House } from './command.ts';
import { nearestFirst, parseFlags } from './flags.ts';

interface Entry {
  readonly about: string;
  load(): Promise<{ command: Command }>;
  /** Whether it computes on a GPU in this process; of some commands their flags decide. */
  readonly gpu: boolean | ((argv: readonly string[]) => boolean);
}

const COMMANDS: Record<string, Entry> = {
  '': { about: 'serve the studio', load: () => import('./start.ts'), gpu: false },
  run: { about: 'do the whole job of a recipe, headless', load: () => import('./run.ts'), gpu: false },
  inspect: { about: 'what a folder or file is', load: () => import('./inspect.ts'), gpu: false },
  forward: { about: 'one pass of the engine over given ids', load: () => import('./forward.ts'), gpu: true },
  'bundled-teacher': {
    about: 'train the teacher of the bundled example',
    load: () => import('./bundled-teacher.ts'),
    gpu: true,
  },
  bench: {
    about: 'measured rates beside the bounds of this device',
    load: () => import('./bench.ts'),
    gpu: (argv) => !/--on[= ]browser/.test(argv.join(' ')),
  },
  export: { about: 'merge, write and verify without training', load: () => import('./export.ts'), gpu: true },
};

/** The command that argv names and what is left for it; flags alone belong to the studio. */
function split(argv: string[]): { name: string; rest: string[] } {
  const [first, ...rest] = argv;
  return first === undefined || first.startsWith('-') ? { name: '', rest: argv } : { name: first, rest };
}

/** Asked before `main`, so that a Vulkan driver is found and its environment set first. */
export function needsGpu(argv: string[]): boolean {
  const { name, rest } = split(argv);
  const gpu = COMMANDS[name]?.gpu ?? false;
  return (typeof gpu === 'function' ? gpu(rest) : gpu) && !wantsHelp(rest);
}

const wantsHelp = (argv: string[]): boolean => argv.includes('--help') || argv.includes('-h');

export async function main(argv: string[], house: House): Promise<number> {
  try {
    const { name, rest } = split(argv);
    const entry = COMMANDS[name];
    if (entry === undefined) {
      const known = Object.keys(COMMANDS).filter((command) => command !== '');
      const [nearest] = nearestFirst(name, known);
      throw new InputError(
        'command line',
        name,
        'there is no such command',
        `did you mean ${nearest}? ${known.join(', ')}`,
      );
    }
    if (wantsHelp(rest)) return await help(name);
    const { command } = await entry.load();
    const { positionals, values } = parseFlags(rest, command);
    return await command.run(positionals, values, house);
  } catch (error) {
    say(wordsOf(error));
    return error instanceof InputError ? 2 : 1;
  }
}

async function help(only: string): Promise<number> {
  for (const [name, { about, load }] of Object.entries(COMMANDS)) {
    if (only !== '' && name !== only) continue;
    const { command } = await load();
    process.stdout.write(`npm start -- ${command.usage}\n    ${about}\n`);
  }
  return 0;
}

/** One line where the error was made for people, the stack where it is a fault of ours. */
function wordsOf(error: unknown): string {
  if (error instanceof InputError || error instanceof EngineError || error instanceof Failure) return error.message;
  return error instanceof Error ? (error.stack ?? error.message) : String(error);
}
