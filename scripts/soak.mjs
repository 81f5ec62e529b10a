/**
 * `node scripts/soak.mjs [--kills N] [--seed S] [RECIPE.json]`: a run is killed with -9 at N random moments (the command line,
 * the browser, or both) and resumed each time, over as many runs as that takes; what each leaves must be, bit for bit, what an
 * undisturbed run leaves.
 * `--minutes M` instead: a run that trains so long, watched for memory and the cost of a step (soak-watch.mjs).
 * Linux only: it finds the browser's processes in /proc. `npm test` does it with five kills (e2e/soak.test.ts).
 */
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { root, say } from './house.mjs';
import { browsersOf, tryKill } from './processes.mjs';

/**
 * @param {{ recipe?: string, kills: number, seed: number }} options without a recipe the bundled one
 * @returns {Promise<{ files: string[], differing: string[] }>} after exactly that many kills
 */
export async function soak({ recipe, kills, seed }) {
  const random = randomFrom(seed);
  const folder = mkdtempSync(join(tmpdir(), 'stillroom-soak-'));
  try {
    const whole = join(folder, 'whole');
    const started = Date.now();
    await run(recipe, whole, { random });
    const duration = Date.now() - started;
    say(`soak: seed ${seed}; undisturbed ${(duration / 1000).toFixed(0)} s`);

    const wanted = leavings(whole);
    const differing = new Set();
    // A run may end before its kills have come: the next one gets what is left of them.
    for (let left = kills; left > 0;) {
      const broken = join(folder, 'broken');
      for (;;) {
        // Early and late moments alike; each time the run goes on from its last checkpoint.
        const killAfter = left > 0 ? 2000 + random() * duration * 0.6 : undefined;
        if (await run(recipe, broken, { random, resume: existsSync(broken), killAfter })) break;
        left--;
      }
      const got = leavings(broken);
      for (const name of new Set([...Object.keys(wanted), ...Object.keys(got)])) {
        if (wanted[name] !== got[name]) differing.add(name);
      }
      if (left > 0) rmSync(broken, { recursive: true, force: true, maxRetries: 5 });
    }
    return { files: Object.keys(wanted), differing: [...differing] };
  } finally {
    rmSync(folder, { recursive: true, force: true, maxRetries: 5 });
  }
}

/** 0 up to 1 (mulberry32). */
function randomFrom(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Whether the run came to its end; it was killed where not. A failure of its own is thrown with its words. */
async function run(recipe, out, { random, resume = false, killAfter }) {
  const args = ['run', ...(recipe === undefined ? [] : [recipe]), '--out', out, ...(resume ? ['--resume'] : [])];
  const stdio = ['ignore', 'ignore', 'pipe'];
  const child = spawn(process.execPath, [join(root, 'scripts/start.mjs'), ...args], { cwd: root, stdio });
  let words = '';
  child.stderr.on('data', (data) => (words += data));
  const ended = new Promise((done) => child.on('close', (code) => done(code)));
  let killed = false;
  const kill = () => {
    killed = true;
    const who = ['command line', 'browser', 'both'][Math.floor(random() * 3)];
    say(`soak: killing the ${who} after ${(killAfter / 1000).toFixed(1)} s`);
    if (who !== 'browser') child.kill('SIGKILL');
    if (who !== 'command line') for (const pid of browsersOf(join(out, '.stillroom/profile'))) tryKill(pid);
  };
  const timer = killAfter === undefined ? undefined : setTimeout(kill, killAfter);
  const code = await ended;
  clearTimeout(timer);
  if (code !== 0 && !killed) throw new Error(`the run failed by itself (exit ${code}):\n${words}`);
  return code === 0;
}

/** Every file that a run leaves, by hash: of the log what does not depend on the clock, of the reports nothing. */
function leavings(out) {
  const found = {};
  for (const entry of readdirSync(out, { recursive: true, withFileTypes: true })) {
    const file = join(entry.parentPath, entry.name);
    const name = file.slice(out.length + 1);
    if (!entry.isFile() || /^(\.stillroom|report\.|model\/README\.md)/.test(name)) continue;
    const bytes = readFileSync(file);
    const content = name === 'metrics.jsonl' ? withoutClock(bytes.toString()) : bytes;
    found[name] = createHash('sha256').update(content).digest('hex');
  }
  return found;
}

const withoutClock = (lines) => lines.replace(/,?"tokens_per_second":[^,}]+/g, '');

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { values, positionals } = parseArgs({
    options: {
      kills: { type: 'string', default: '20' },
      seed: { type: 'string', default: String(Date.now() % 1e6) },
      minutes: { type: 'string' },
    },
    allowPositionals: true,
  });
  if (values.minutes) {
    const { watch } = await import('./soak-watch.mjs');
    process.exitCode = (await watch(Number(values.minutes))) ? 0 : 1;
  } else {
    const result = await soak({ recipe: positionals[0], kills: Number(values.kills), seed: Number(values.seed) });
    process.stdout.write(
      result.differing.length > 0
        ? `these differ after ${values.kills} kills: ${result.differing.join(', ')}\n`
        : `${result.files.length} files equal, bit for bit, after ${values.kills} kills\n`,
    );
    process.exitCode = result.differing.length > 0 ? 1 : 0;
  }
}
