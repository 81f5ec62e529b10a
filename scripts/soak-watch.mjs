/**
 * `npm run soak -- --minutes M`: the bundled run trains on and on in the real page, while the memory of every process of its
 * browser and what a step costs are written down. Memory must be flat: the least of the last quarter at most 5% over that of
 * the second. (The first is spent on compiling and filling caches; what checkpoints leave behind waits for the browser to
 * collect it, a saw of up to 80 MB, so that a median says where in it a quarter lies.) So must a step: at most 10% more
 * processor time in the last quarter than in the second; others may use the machine, so its wall time is only said.
 */
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { root, say } from './house.mjs';
import { browsersOf, tryKill, usageOf } from './processes.mjs';

const EVERY_MS = 5000;
const MOST_GROWTH = { memory: 1.05, step: 1.1 };

/** @returns {Promise<boolean>} whether memory and steps stayed as they were */
export async function watch(minutes) {
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
    /** From the first logged step on. */
    const samples = [];
    while (samples.length === 0 || Date.now() - samples[0].time < minutes * 60_000) {
      await new Promise((resolve) => setTimeout(resolve, EVERY_MS));
      if (code !== undefined) throw new Error(`the run ended by itself (exit ${code}):\n${words}`);
      const step = lastStep(out);
      if (step === undefined) continue;
      samples.push({ time: Date.now(), step, ...usageOf(browsersOf(join(out, '.stillroom/profile'))) });
    }
    return report(samples);
  } finally {
    child.kill('SIGTERM');
    for (const pid of browsersOf(join(out, '.stillroom/profile'))) tryKill(pid);
    rmSync(folder, { recursive: true, force: true, maxRetries: 5 });
  }
}

function report(samples) {
  const quarters = [0, 1, 2, 3].map((n) => {
    const part = samples.slice((samples.length * n) / 4, (samples.length * (n + 1)) / 4);
    const [first, last] = [part[0], part.at(-1)];
    const steps = last.step - first.step;
    return {
      steps,
      bytes: Math.min(...part.map(({ bytes }) => bytes)),
      processorSeconds: (last.processorSeconds - first.processorSeconds) / steps,
      seconds: (last.time - first.time) / 1000 / steps,
    };
  });
  for (const [n, { steps, bytes, processorSeconds, seconds }] of quarters.entries()) {
    say(
      `quarter ${n + 1}: at least ${(bytes / 2 ** 20).toFixed(0)} MiB; ${steps} steps, each ` +
        `${processorSeconds.toFixed(3)} s of processor time in ${seconds.toFixed(3)} s`,
    );
  }
  const [, second, , last] = quarters;
  const growth = { memory: last.bytes / second.bytes, step: last.processorSeconds / second.processorSeconds };
  for (const [what, by] of Object.entries(growth)) {
    const flat = by <= MOST_GROWTH[what];
    process.stdout.write(`${what} ${flat ? 'flat' : 'GROWS'}: ${by.toFixed(3)} of the second quarter's in the last\n`);
  }
  return growth.memory <= MOST_GROWTH.memory && growth.step <= MOST_GROWTH.step;
}

/** The newest one in the log; undefined before the first. */
function lastStep(out) {
  try {
    return readFileSync(join(out, 'metrics.jsonl'), 'utf8')
      .split('\n')
      .filter((line) => line.endsWith('}'))
      .flatMap((line) => JSON.parse(line).step ?? [])
      .at(-1);
  } catch {
    return undefined; // it has not begun
  }
}
