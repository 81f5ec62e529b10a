/**
 * Two real models that some tests hold the product to (SmolLM2-135M-Instruct as GGUF, all-MiniLM-L6-v2). They are not part of
 * the project: `npm test` has the script beside the reference answers bring them, once; without it these tests skip.
 */
import { existsSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { root, run, say } from './house.mjs';

const folder = () => process.env.STILLROOM_REAL_MODELS || join(homedir(), '.cache/stillroom-models');

/**
 * @param {'smollm2' | 'minilm'} name
 * @returns {string | undefined} its folder; undefined, and a line that says so, where it is not there
 */
export function realModel(name) {
  const there = join(folder(), name);
  if (existsSync(join(there, '.done'))) return there;
  say(`skipped: there is no ${there} (../shared/reference/get_real_models.sh brings it)`);
  return undefined;
}

/** Fetches what is missing, where the script for it is there and works. */
export async function bringRealModels() {
  const script = join(root, '../shared/reference/get_real_models.sh');
  if (!existsSync(script) || ['smollm2', 'minilm'].every((name) => existsSync(join(folder(), name, '.done')))) return;
  say('fetching two real models for tests (180 MB) ...');
  const { code, output } = await run('bash', [script, folder()], { quiet: true, timeout: 300_000 });
  if (code !== 0) say(`they could not be fetched; the tests of them skip: ${output.trim().split('\n').at(-1)}`);
}
