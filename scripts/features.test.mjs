/** FEATURES.md names only tests that exist, and every row that works names one. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { root } from './house.mjs';

const rows = readFileSync(join(root, 'FEATURES.md'), 'utf8')
  .split('\n')
  .filter((line) => line.startsWith('|'))
  .slice(2)
  .map((line) => line.split('|').map((cell) => cell.trim()));

it('every test that FEATURES.md names exists', () => {
  const named = rows.flatMap(([, , , by]) => [...by.matchAll(/`([^`]+)`/g)].map((match) => match[1]));
  expect(named.filter((file) => !existsSync(join(root, file)))).toEqual([]);
});

it('every feature that works is held by a test', () => {
  expect(rows.filter(([, , state, by]) => state.startsWith('works') && by === '').map(([, name]) => name)).toEqual([]);
});
