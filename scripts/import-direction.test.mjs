/** The import rule refuses what docs/design.md forbids, in every form an import can take. */
import { resolve } from 'node:path';
import { Linter } from 'eslint';
import tseslint from 'typescript-eslint';
import { describe, expect, it } from 'vitest';
import { importDirection } from './import-direction.mjs';

const root = resolve('.');
const linter = new Linter({ cwd: root });
const messages = (file, code) =>
  linter
    .verify(
      code,
      {
        files: ['**/*.ts'],
        languageOptions: { parser: tseslint.parser },
        plugins: { house: { rules: { 'import-direction': importDirection } } },
        rules: { 'house/import-direction': 'error' },
      },
      resolve(root, file),
    )
    .map((message) => message.message);

describe('import direction', () => {
  it.each([
    ['src/app/page.ts', `import { run } from '../job/run.ts';`],
    ['src/app/page.ts', `new URL('../../workers/engine.worker.ts', import.meta.url);`],
    ['workers/engine.worker.ts', `import { run } from '../src/job/run.ts';`],
    ['src/train/trainer.ts', `import { llama } from '../models/llama.ts';`],
    ['src/models/llama.ts', `import type { Recipe } from '../recipe/schema.ts';`],
    ['src/models/llama.ts', `import { type Recipe } from '../recipe/schema.ts';`],
    ['src/recipe/parse.ts', `import { InputError } from '../formats/input-error.ts';`],
    ['src/engine/run/device.ts', `import { plan } from '../plan/plan.ts';`],
    ['src/engine/run/device.ts', `import { readFile } from 'node:fs/promises';`],
    ['src/engine/run/device.test.ts', `import { llama } from '../../models/llama.ts';`],
    ['src/engine/testing.ts', `import { nodeGpu } from '../cli/node-gpu.ts';`],
  ])('%s may say %s', (file, code) => expect(messages(file, code)).toEqual([]));

  it.each([
    ['src/engine/run/device.ts', `import { llama } from '../../models/llama.ts';`, 'engine may not import models'],
    ['src/train/trainer.ts', `import { rows } from '../data/rows.ts';`, 'train may not import data'],
    ['src/train/trainer.ts', `import type { Rows } from '../data/rows.ts';`, 'train may not import data'],
    ['src/train/trainer.ts', `type Rows = import('../data/rows.ts').Rows;`, 'train may not import data'],
    ['src/train/trainer.ts', `import { open } from '../store/open.ts';`, 'train may not import store'],
    ['src/job/run.ts', `await import('../app/page.ts');`, 'job may not import app'],
    ['src/job/run.ts', `new URL('../../workers/data.worker.ts', import.meta.url);`, 'job may not import workers'],
    ['src/models/llama.ts', `import { parseRecipe } from '../recipe/parse.ts';`, 'but for its types'],
    ['src/formats/onnx.ts', `export * from '../models/llama.ts';`, 'formats may not import models'],
    ['src/app/page.ts', `export { main } from '../cli/main.ts';`, 'app may not import cli'],
    ['src/cellar/wine.ts', `import { llama } from '../models/llama.ts';`, 'no room of the house'],
  ])('%s may not say %s', (file, code, expected) => {
    const found = messages(file, code);
    expect(found).toHaveLength(1);
    expect(found[0]).toContain(expected);
  });
});
