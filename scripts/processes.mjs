/** Processes as Linux lists them in /proc: the browsers of a profile, and what they and their children hold in memory. */
import { readFileSync, readdirSync } from 'node:fs';

/** Linux's USER_HZ, on every architecture that a browser runs on. */
const TICKS_A_SECOND = 100;

/** @returns {number[]} */
export function browsersOf(profile) {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name) && read(`/proc/${name}/cmdline`).includes(`--user-data-dir=${profile}`))
    .map(Number);
}

export function tryKill(pid) {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // It ended by itself meanwhile.
  }
}

/**
 * What these processes and all that they started hold in memory, and the processor time that they have taken so far.
 * @returns {{ bytes: number, processorSeconds: number }}
 */
export function usageOf(pids) {
  const all = new Map();
  for (const pid of readdirSync('/proc').filter((entry) => /^\d+$/.test(entry))) {
    const kilobytes = /^VmRSS:\s+(\d+)/m.exec(read(`/proc/${pid}/status`))?.[1];
    // after the name, which may hold anything: state, parent, …, and as the 12th and 13th user and system time in ticks
    const fields = read(`/proc/${pid}/stat`).split(') ').at(-1).split(' ');
    if (!kilobytes || fields.length < 13) continue;
    const ticks = Number(fields[11]) + Number(fields[12]);
    all.set(Number(pid), { parent: Number(fields[1]), bytes: Number(kilobytes) * 1024, ticks });
  }
  const mine = new Set(pids);
  for (let grew = true; grew;) {
    grew = false;
    for (const [pid, { parent }] of all) {
      if (!mine.has(pid) && mine.has(parent)) grew = Boolean(mine.add(pid));
    }
  }
  const sum = (of) => [...mine].reduce((total, pid) => total + (all.has(pid) ? of(all.get(pid)) : 0), 0);
  return { bytes: sum(({ bytes }) => bytes), processorSeconds: sum(({ ticks }) => ticks) / TICKS_A_SECOND };
}

function read(file) {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return ''; // it ended meanwhile
  }
}
