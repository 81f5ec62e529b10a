/**
 * `npm run soak -- --minutes M`: the bundled run trains on and on in the real page, while the memory of every process of its
 * browser and the rate of its steps are written down. Memory must be flat: the last quarter's median at most 5% over that of
 * the second (the first is spent on compiling and filling caches). Of the rate only figures are given: others may use the machine.
 */
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { root, say } from './house.mjs';
import { browsersOf, residentBytes, tryKill } from './processes.mjs';

const EVERY_MS = 5000;
const MOST_GROWTH = 1.05;

/** @returns {Promise<boolean>} whether memory was flat */
export async function watchMemory(minutes) {
  const folder = mkdtempSync(join(tmpdir(), 'stillroom-soak-'));
  const out = join(folder, 'out');
  const recipe = join(folder, 'recipe.json');
  const bundled = JSON.parse(readFileSync(join(root, 'public/bundled/recipe.json'), 'utf8'));
  const training = { ...bundled.training, max_steps: 1e6, logging_steps: 5, eval_strategy: 'no', save_steps: 100 };
  writeFileSync(recipe, JSON.stringify({ ...bundled, training, evaluate: { tasks: [] } }));
  const args = [join(root, 'scripts/start.mjs'), 'run', recipe, '--out', out];
  const child = spawn(process.execPath, args, { cwd: root, stdio: ['ignore', 'ignore', 'pipe'] });
  let words = '';
  child.stderr.on('data', (data) => (words = (words + data).slice(-4000)));
  let code;
  child.on('close', (ended) => (code = ended));
  try {
    /** Bytes, from the first logged step on. */
    const memory = [];
    let first;
    while (first === undefined || Date.now() - first < minutes * 60_000) {
      await new Promise((resolve) => setTimeout(resolve, EVERY_MS));
      if (code !== undefined) throw new Error(`the run ended by itself (exit ${code}):\n${words}`);
      if (rates(out).length === 0) continue;
      first ??= Date.now();
      memory.push(residentBytes(browsersOf(join(out, '.stillroom/profile'))));
    }
    return report(memory, rates(out));
  } finally {
    child.kill('SIGTERM');
    for (const pid of browsersOf(join(out, '.stillroom/profile'))) tryKill(pid);
    rmSync(folder, { recursive: true, force: true, maxRetries: 5 });
  }
}

function report(memory, rate) {
  const quarter = (values, n) =>
    values.slice((values.length * n) / 4, (values.length * (n + 1)) / 4).sort((a, b) => a - b);
  const median = (values, n) => {
    const part = quarter(values, n);
    return part[part.length >> 1];
  };
  for (let n = 0; n < 4; n++) {
    const [bytes, tokens] = [median(memory, n), median(rate, n)];
    say(`quarter ${n + 1}: ${(bytes / 2 ** 20).toFixed(0)} MiB, ${tokens?.toFixed(0)} tokens a second (medians)`);
  }
  const growth = median(memory, 3) / median(memory, 1);
  const flat = growth <= MOST_GROWTH;
  process.stdout.write(`memory ${flat ? 'flat' : 'GROWS'}: ${growth.toFixed(3)} of the second quarter's in the last\n`);
  return flat;
}

function rates(out) {
  try {
    return readFileSync(join(out, 'metrics.jsonl'), 'utf8')
      .split('\n')
      .filter((line) => line.endsWith('}'))
      .flatMap((line) => JSON.parse(line).tokens_per_second ?? []);
  } catch {
    return []; // it has not begun
  }
}
