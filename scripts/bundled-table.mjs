/**
 * `node scripts/bundled-table.mjs [--seeds 1,2,3]`: is the teacher worth anything? The bundled student, distilled and from text
 * alone, by the same recipe but for the teacher, over several seeds, each as a whole run; writes its part of docs/results.md.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { root, run, say } from './house.mjs';
import { writeResult } from './results.mjs';

const { values } = parseArgs({ options: { seeds: { type: 'string', default: '1,2,3' } } });
const seeds = values.seeds.split(',').map(Number);
const RECIPES = { distilled: 'recipe.json', 'text alone': 'recipe-text-alone.json' };
const folder = mkdtempSync(join(tmpdir(), 'stillroom-table-'));

/** One whole run, without files to export: its report. */
async function reportOf(name, seed) {
  const recipe = JSON.parse(readFileSync(join(root, 'public/bundled', RECIPES[name]), 'utf8'));
  const file = join(folder, `${name.replace(' ', '-')}-${seed}.json`);
  const out = `${file}-out`;
  writeFileSync(file, JSON.stringify({ ...recipe, seed, export: { onnx: [], adapter: false } }));
  const { code, output } = await run(process.execPath, [join(root, 'scripts/start.mjs'), 'run', file, '--out', out], {
    quiet: true,
  });
  if (code !== 0) throw new Error(`${name}, seed ${seed}: ${output}`);
  return JSON.parse(readFileSync(join(out, 'report.json'), 'utf8'));
}

const percent = (value) => `${(100 * value).toFixed(1)}%`;
const figure = (f) => (f ? `${percent(f.value)} [${percent(f.low)}, ${percent(f.high)}]` : '–');

try {
  const rows = [];
  let about;
  for (const seed of seeds) {
    for (const name of Object.keys(RECIPES)) {
      const report = await reportOf(name, seed);
      const [task] = report.evaluate.tasks;
      about ??= { adapter: report.adapter, steps: report.train.steps, rows: task.student.rows };
      rows.push({ ...task, seed, name, seconds: report.train.seconds, before: report.train.eval_loss_before });
      say(`seed ${seed}, ${name}: ${figure(task.student)}`);
    }
  }
  const mean = (name) => {
    const values = rows.filter((row) => row.name === name).map((row) => row.student.value);
    return values.reduce((sum, value) => sum + value, 0) / values.length;
  };
  const table = rows.map(
    ({ seed, name, teacher, start, student, seconds }) =>
      `| ${seed} | ${name} | ${figure(teacher)} | ${figure(start)} | ${figure(student)} | ${seconds.toFixed(0)} s |`,
  );
  writeResult(
    'Is the teacher worth anything?',
    `The bundled example: the same student (three of the teacher's four layers), the same rows, seeds and ${about.steps} steps, once distilled from the teacher's cached logits, once from the text alone. Right answers on ${about.rows} rows that none has seen, with 95% intervals (Wilson). Made by \`node scripts/bundled-table.mjs\` on ${new Date().toISOString().slice(0, 10)}, adapter ${about.adapter.vendor} ${about.adapter.architecture}.

| seed | student | teacher | at the start | after training | training |
| --- | --- | --- | --- | --- | --- |
${table.join('\n')}

Mean: distilled ${percent(mean('distilled'))}, text alone ${percent(mean('text alone'))}.
`,
  );
} finally {
  rmSync(folder, { recursive: true, force: true });
}
