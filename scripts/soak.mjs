/**
 * `node scripts/soak.mjs [--kills N] [--seed S] [RECIPE.json]`: a run is killed with -9 at N random moments (the command line,
 * the browser, or both) and resumed each time; what it leaves must be, bit for bit, what an undisturbed run leaves.
 * Linux only: it finds the browser's processes in /proc.
 */
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { root, say } from './house.mjs';

const { values, positionals } = parseArgs({
  options: { kills: { type: 'string', default: '5' }, seed: { type: 'string', default: String(Date.now() % 1e6) } },
  allowPositionals: true,
});
const kills = Number(values.kills);
let state = Number(values.seed);
say(`seed ${state}, ${kills} kills`);

/** 0 up to 1 (mulberry32). */
function random() {
  state = (state + 0x6d2b79f5) | 0;
  let t = Math.imul(state ^ (state >>> 15), 1 | state);
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
  return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
}

const folder = mkdtempSync(join(tmpdir(), 'stillroom-soak-'));

/** Runs until it ends or `killAfter` milliseconds; the exit code, null where it was killed. */
async function run(out, { resume, killAfter }) {
  const args = [join(root, 'scripts/start.mjs'), 'run', ...positionals, '--out', out, ...(resume ? ['--resume'] : [])];
  const child = spawn(process.execPath, args, { cwd: root, stdio: ['ignore', 'ignore', 'pipe'] });
  let words = '';
  child.stderr.on('data', (data) => (words += data));
  const ended = new Promise((done) => child.on('close', (code, signal) => done(signal === null ? code : null)));
  let killed = false;
  const timer =
    killAfter === undefined
      ? undefined
      : setTimeout(() => {
          killed = true;
          const who = ['command line', 'browser', 'both'][Math.floor(random() * 3)];
          say(`killing the ${who} after ${(killAfter / 1000).toFixed(1)} s`);
          if (who !== 'browser') child.kill('SIGKILL');
          if (who !== 'command line') for (const pid of browsersOf(join(out, '.stillroom/profile'))) tryKill(pid);
        }, killAfter);
  const code = await ended;
  clearTimeout(timer);
  if (!killed && code !== 0) throw new Error(`the run failed by itself (exit ${code}):\n${words}`);
  return killed ? null : code;
}

function tryKill(pid) {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // It ended by itself meanwhile.
  }
}

function browsersOf(profile) {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name) && cmdline(name).includes(`--user-data-dir=${profile}`))
    .map(Number);
}

function cmdline(pid) {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8');
  } catch {
    return '';
  }
}

/** Every file that a run leaves, by hash; of the log and the report what does not depend on the clock. */
function leavings(out) {
  const found = {};
  for (const entry of readdirSync(out, { recursive: true, withFileTypes: true })) {
    const path = join(entry.parentPath, entry.name);
    const name = path.slice(out.length + 1);
    if (!entry.isFile() || /^(\.stillroom|report\.|model\/README\.md)/.test(name)) continue;
    const bytes = readFileSync(path);
    const content = name === 'metrics.jsonl' ? withoutClock(bytes.toString()) : bytes;
    found[name] = createHash('sha256').update(content).digest('hex');
  }
  return found;
}

const withoutClock = (lines) => lines.replace(/"(tokens_per_second|eval_runtime|time)":[^,}]+,?/g, '');

try {
  const whole = join(folder, 'whole');
  const started = Date.now();
  await run(whole, { resume: false });
  const duration = Date.now() - started;
  say(`undisturbed: ${(duration / 1000).toFixed(0)} s`);

  const broken = join(folder, 'broken');
  let left = kills;
  for (let resume = false; ; resume = existsSync(broken)) {
    // Early and late moments alike: what is left of the run is not known, so a share of all of it.
    const killAfter = left > 0 ? 2000 + random() * duration * 0.6 : undefined;
    const code = await run(broken, { resume, killAfter });
    if (code === 0) break;
    left--;
  }
  say(`${kills - left} of ${kills} kills came before the end`);

  const [wanted, got] = [leavings(whole), leavings(broken)];
  const differing = [...new Set([...Object.keys(wanted), ...Object.keys(got)])].filter(
    (name) => wanted[name] !== got[name],
  );
  if (differing.length > 0) throw new Error(`these differ: ${differing.join(', ')} (kept in ${folder})`);
  process.stdout.write(`${Object.keys(wanted).length} files equal, bit for bit, after ${kills - left} kills\n`);
  rmSync(folder, { recursive: true, force: true });
} catch (error) {
  say(error.message);
  process.exitCode = 1;
}
