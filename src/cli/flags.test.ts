/** What a person may type, and what is said of the rest. */
import { describe, expect, it } from 'vitest';
import { needed, parseFlags, wholeNumber } from './flags.ts';

const command = {
  usage: 'forward MODEL --out F [--grads] [--adapter DIR…]',
  flags: {
    out: { type: 'string' },
    grads: { type: 'boolean' },
    adapter: { type: 'string', multiple: true },
  },
  positionals: [1, 1],
} as const satisfies Parameters<typeof parseFlags>[1];
const parse = (line: string) => parseFlags(line.split(' ').filter(Boolean), command);

describe('parseFlags', () => {
  it('takes flags before, between and after arguments', () => {
    expect(parse('--grads model --out=g --adapter a --adapter b')).toEqual({
      positionals: ['model'],
      values: { grads: true, out: 'g', adapter: ['a', 'b'] },
    });
  });

  it.each([
    ['model --grad', '--grad: there is no such flag: did you mean --grads?'],
    ['model --grads=yes', '--grads: it takes no value'],
    ['model --out --grads', '--out: its value is missing'],
    ['model --out', '--out: its value is missing'],
    ['model --out a --out b', '--out: it is given twice'],
    ['model other', 'other: is one argument too many'],
    ['--grads', 'an argument is missing'],
  ])('%s', (line, words) => expect(() => parse(line)).toThrow(words));

  it('checks numbers and what must be there', () => {
    expect(wholeNumber({ port: '80' }, 'port', 0, 100)).toBe(80);
    expect(wholeNumber({}, 'port', 0, 100)).toBeUndefined();
    expect(() => wholeNumber({ port: 'x' }, 'port', 0, 100)).toThrow('--port: is x: a whole number from 0 to 100');
    expect(() => needed({}, 'out', command.usage)).toThrow('--out: it is missing: npm start -- forward MODEL');
  });
});
