/** What a command of the command line is, and what the scripts around it lend it (scripts/start.mjs). */
import type { ParseArgsConfig } from 'node:util';

export type Flags = NonNullable<ParseArgsConfig['options']>;
export type Values = Record<string, string | boolean | (string | boolean)[] | undefined>;

export interface Command {
  /** After `npm start -- `; the usage line of errors. */
  readonly usage: string;
  readonly flags: Flags;
  /** How many positional arguments: least and most. */
  readonly positionals: readonly [number, number];
  /** The exit code: 0 done, 1 failed while working. InputErrors become 2. */
  run(positionals: string[], values: Values, house: House): Promise<number>;
}

export interface FoundBrowser {
  readonly path: string;
  /** What it needs in its environment to start. */
  readonly env: Record<string, string>;
}

export interface House {
  /** The project's folder. */
  readonly root: string;
  /** Builds the page if it is stale; its folder. */
  page(): Promise<string>;
  browser(): Promise<FoundBrowser>;
}

/** A failure while working whose words are all that a person needs; exit 1. */
export class Failure extends Error {
  override readonly name = 'Failure';
}

/** Lines about what goes on; stdout belongs to what a command answers. */
export function say(line: string): void {
  process.stderr.write(`${line}\n`);
}
