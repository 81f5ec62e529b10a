/** Processes as Linux lists them in /proc: the browsers of a profile, and what they and their children hold in memory. */
import { readFileSync, readdirSync } from 'node:fs';

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

/** Of these processes and all that they started. */
export function residentBytes(pids) {
  const parents = new Map();
  for (const name of readdirSync('/proc').filter((entry) => /^\d+$/.test(entry))) {
    const status = read(`/proc/${name}/status`);
    const parent = /^PPid:\s+(\d+)/m.exec(status)?.[1];
    const kilobytes = /^VmRSS:\s+(\d+)/m.exec(status)?.[1];
    if (parent && kilobytes) parents.set(Number(name), { parent: Number(parent), bytes: Number(kilobytes) * 1024 });
  }
  const mine = new Set(pids);
  for (let grew = true; grew;) {
    grew = false;
    for (const [pid, { parent }] of parents) {
      if (!mine.has(pid) && mine.has(parent)) grew = Boolean(mine.add(pid));
    }
  }
  return [...mine].reduce((sum, pid) => sum + (parents.get(pid)?.bytes ?? 0), 0);
}

function read(file) {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return ''; // it ended meanwhile
  }
}
