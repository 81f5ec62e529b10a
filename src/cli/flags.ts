/** argv ─▶ flags and positionals by a command's declaration; what it does not know is an InputError that names the nearest. */
import { parseArgs } from 'node:util';
import { InputError } from '../formats/input-error.ts';
import { levenshtein } from '../recipe/parse.ts';
import type { Command, Values } from './command.ts';

export function parseFlags(
  argv: string[],
  command: Pick<Command, 'usage' | 'flags' | 'positionals'>,
): { positionals: string[]; values: Values } {
  const { flags } = command;
  const usage = `npm start -- ${command.usage}`.trimEnd();
  const { tokens } = parseArgs({ args: argv, options: flags, strict: false, allowPositionals: true, tokens: true });
  const positionals: string[] = [];
  const values: Values = {};
  for (const token of tokens) {
    if (token.kind === 'positional') {
      positionals.push(token.value);
      continue;
    }
    if (token.kind !== 'option') continue;
    const flag = flags[token.name];
    const wrong = (what: string, allowed: string) => new InputError('command line', token.rawName, what, allowed);
    if (flag === undefined) throw wrong('there is no such flag', allowedFlags(token.name, Object.keys(flags), usage));
    if (flag.type === 'boolean' && token.value !== undefined) throw wrong('it takes no value', usage);
    if (flag.type === 'string' && (token.value === undefined || (!token.inlineValue && token.value.startsWith('--')))) {
      throw wrong('its value is missing', usage);
    }
    const value = token.value ?? true;
    if (flag.multiple) values[token.name] = [...((values[token.name] as string[] | undefined) ?? []), value as string];
    else if (token.name in values) throw wrong('it is given twice', usage);
    else values[token.name] = value;
  }
  const [least, most] = command.positionals;
  if (positionals.length > most) {
    throw new InputError('command line', positionals[most]!, 'is one argument too many', usage);
  }
  if (positionals.length < least) throw new InputError('command line', '', 'an argument is missing', usage);
  return { positionals, values };
}

function allowedFlags(name: string, known: string[], usage: string): string {
  const [nearest] = nearestFirst(name, known);
  return nearest === undefined ? usage : `did you mean --${nearest}? ${usage}`;
}

export function nearestFirst(word: string, known: readonly string[]): string[] {
  return [...known].sort((a, b) => levenshtein(word, a) - levenshtein(word, b));
}

/** A flag's value as a whole number of a range. */
export function wholeNumber(values: Values, name: string, least: number, most: number): number | undefined {
  const value = values[name];
  if (value === undefined) return undefined;
  const number = Number(value);
  if (!Number.isInteger(number) || number < least || number > most) {
    throw new InputError('command line', `--${name}`, `is ${String(value)}`, `a whole number from ${least} to ${most}`);
  }
  return number;
}

export function text(values: Values, name: string): string | undefined {
  const value = values[name];
  return typeof value === 'string' ? value : undefined;
}

/** The value of a flag that the command cannot do without. */
export function needed(values: Values, name: string, usage: string): string {
  const value = text(values, name);
  if (value === undefined) throw new InputError('command line', `--${name}`, 'it is missing', `npm start -- ${usage}`);
  return value;
}
