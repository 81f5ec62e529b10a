/**
 * report.html: the report as one page that opens anywhere, from itself alone (no script, no request). Copper is the
 * teacher, verdigris the student, as in the studio; curves are drawn here as SVG.
 */
import { chart, type Series } from './report-chart.ts';
import type { Figure, MetricsLine, Report } from './protocol.ts';

const STYLE = `
:root{color-scheme:light dark;--paper:#fbf9f6;--sheet:#fff;--line:#e2dcd3;--ink:#2b2622;--ink-2:#655d55;--teacher:#a8552a;--student:#1d7a70;--r:10px;
 --serif:"Source Serif 4","Songti SC","Noto Serif SC",Georgia,serif;--mono:ui-monospace,"SF Mono",Menlo,monospace}
@media(prefers-color-scheme:dark){:root{--paper:#171412;--sheet:#1e1b18;--line:#3b3631;--ink:#ece7e0;--ink-2:#b3aaa0;--teacher:#e0935f;--student:#6cc3b7}}
*{box-sizing:border-box}body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,sans-serif;font-variant-numeric:tabular-nums}
main{max-width:920px;margin:0 auto;padding:32px 24px 48px}h1{font:600 34px/1.18 var(--serif);margin:0 0 8px}h2{font:600 20px/1.3 var(--serif);margin:32px 0 12px}
p{margin:0 0 12px;color:var(--ink-2);max-width:42em}.card{background:var(--sheet);border:1px solid var(--line);border-radius:var(--r);padding:16px;overflow-x:auto}
.figures{display:flex;flex-wrap:wrap;gap:12px}.figures div{flex:1 1 150px}.figures b{display:block;font:600 26px/1.2 var(--serif)}.figures span{font-size:13px;color:var(--ink-2)}
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:6px 12px 6px 0;border-bottom:1px solid var(--line);vertical-align:top}tr:last-child>*{border-bottom:0}th{font-weight:500;color:var(--ink-2)}td.n,th.n{text-align:right}
.teacher{color:var(--teacher)}.student{color:var(--student)}code,pre{font:13px/1.5 var(--mono);overflow-wrap:anywhere}pre{margin:0;white-space:pre-wrap}svg{display:block;width:100%;height:auto}svg text{font:12px system-ui,sans-serif;fill:var(--ink-2)}
.grid{stroke:var(--line)}.faint{opacity:.35}summary{cursor:pointer;padding:8px 0}small{font-size:13px;color:var(--ink-2)}`;

export function reportHtml(report: Report, lines: readonly MetricsLine[]): string {
  const { recipe, data, teacher, train, evaluate, provenance, history, adapter } = report;
  const name = escape(recipe.name);
  const files = report.export.files;
  const first = history[0]?.time;
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${name}: a distillation by Stillroom</title>
<style>${STYLE}</style>
<main>
<h1>${name}</h1>
<p><span class="student">${escape(recipe.student.model)}</span> ${taught(report)}, ${first ? `begun ${escape(first.slice(0, 16).replace('T', ' '))} UTC, ` : ''}with Stillroom ${escape(provenance.stillroom)} on ${escape(adapter.description || adapter.device || adapter.vendor || 'an unnamed adapter')}${adapter.software ? ' (software)' : ''}.</p>
<div class="card figures">
${figure('Steps', count(train.steps))}
${figure('Tokens a second', count(train.tokens_per_second))}
${figure('Training time', seconds(train.seconds))}
${figure('Evaluation loss', `${number(train.eval_loss_before)} → ${number(train.eval_loss_after)}`)}
${figure('Student', `${count(evaluate.student_parameters)} parameters`)}
</div>
${tasks(evaluate.tasks)}
<h2>Loss</h2>
${curves(lines)}
<h2>Data</h2>
<p>${dataWords(data, recipe.data.max_length)}</p>
${
  data.dropped.length > 0
    ? table(
        ['Dropped because', 'Rows'],
        data.dropped.map((drop) => [escape(drop.reason), count(drop.rows)]),
      )
    : ''
}
<h2>Teacher</h2>
<p>${teacherWords(teacher)}</p>
<h2>Memory</h2>
<p>${bytes(train.planned_bytes)} planned, ${bytes(train.measured_bytes)} measured on the GPU.${train.gradient_checkpointing ? ' Layers were computed again in the backward pass (gradient_checkpointing).' : ''}${train.optimizer_in_bwd ? ' Weights were updated in the backward pass (optimizer_in_bwd).' : ''}</p>
<h2>Files</h2>
${
  files.length > 0
    ? table(
        [
          'File',
          'Precision',
          'Size',
          'Largest difference',
          'Same first choice',
          'Loss on unseen rows, before and after',
        ],
        files.map((file) => [
          `<code>${escape(file.path)}</code>`,
          escape(file.dtype),
          bytes(file.bytes),
          differenceOf(file),
          file.top1_agreement === undefined ? '' : percent(file.top1_agreement),
          file.eval_loss_after === undefined
            ? ''
            : `${file.eval_loss_before!.toFixed(4)} → ${file.eval_loss_after.toFixed(4)}`,
        ]),
      )
    : '<p>No model was written.</p>'
}
<h2>What happened</h2>
${table(
  ['Time (UTC)', 'What', ''],
  history.map((line) => [escape(line.time.slice(0, 19).replace('T', ' ')), line.what, escape(line.detail ?? '')]),
)}
<h2>What went in</h2>
${table(
  ['', 'SHA-256, or commit'],
  Object.entries({ ...provenance.hashes, ...provenance.commits }).map(([what, hash]) => [
    escape(what),
    `<code>${escape(hash)}</code>`,
  ]),
)}
<details class="card"><summary>The recipe</summary><pre>${escape(JSON.stringify(recipe, null, 2))}</pre></details>
</main>
</html>
`;
}

/** From the engine's logits, or of a GGUF from the weights that were written. */
function differenceOf({ max_logit_difference, max_weight_difference }: Report['export']['files'][number]): string {
  return (max_logit_difference ?? max_weight_difference)?.toExponential(1) ?? '';
}

function taught({ recipe }: Report): string {
  const { teacher } = recipe;
  if (teacher.kind === 'none') return 'trained on the text alone';
  const who = teacher.kind === 'cache' ? teacher.source : teacher.model;
  return `taught by <span class="teacher">${escape(who)}</span>`;
}

function dataWords(data: Report['data'], max_length: number): string {
  const { read, kept, train_rows, eval_rows, cut, tokens, counted_share, vocabulary, without_thought } = data;
  const parts = [
    `${count(read)} rows read, ${count(kept)} kept (${count(train_rows)} to train, ${count(eval_rows)} to evaluate), ${count(cut)} of them cut at ${count(max_length)} tokens.`,
    `${count(tokens)} tokens, of which ${percent(counted_share)} count.`,
    vocabulary && `The student’s vocabulary keeps ${count(vocabulary.kept)} of ${count(vocabulary.of)} tokens.`,
    without_thought &&
      `The student’s chat template leaves out what is thought before the answer in ${count(without_thought)} of the rows: of them it learnt the answers alone.`,
  ];
  return parts.filter(Boolean).join(' ');
}

function teacherWords(teacher: Report['teacher']): string {
  if (teacher.kind === 'none') return 'None: the student learnt from the text alone.';
  const parts = [
    `Kind <code>${escape(teacher.kind)}</code>`,
    ...(teacher.parameters === undefined ? [] : [`${count(teacher.parameters)} parameters`]),
    ...(teacher.tokens_per_second === undefined ? [] : [`${count(teacher.tokens_per_second)} tokens a second`]),
    ...(teacher.answers?.kept === undefined
      ? []
      : [`${count(teacher.answers.written)} answers written, ${count(teacher.answers.kept)} learnt from`]),
    ...(teacher.cache_bytes === undefined ? [] : [`a cache of ${bytes(teacher.cache_bytes)}`]),
    ...(teacher.draws === undefined ? [] : [`${count(teacher.draws)} tokens drawn at each position`]),
    ...Object.entries(teacher.mass_kept ?? {}).map(
      ([t, mass]) => `${percent(mass)} of its probability kept at T = ${escape(t)}`,
    ),
  ];
  return `${parts.join(', ')}.`;
}

function tasks(tasks: Report['evaluate']['tasks']): string {
  if (tasks.length === 0) return '';
  const cell = (one: Figure | undefined): string =>
    one ? `${percent(one.value)} <small>${percent(one.low)} to ${percent(one.high)}</small>` : '';
  const head = [
    'On rows none has seen',
    '<span class="teacher">Teacher</span>',
    'Student before',
    '<span class="student">Student after</span>',
  ];
  return `<h2>Right answers</h2>\n${table(
    head,
    tasks.map((task) => [
      `${escape(task.name)} <small>${escape(task.metric)}, ${count((task.student ?? task.start ?? task.teacher)?.rows)} rows</small>`,
      cell(task.teacher),
      cell(task.start),
      cell(task.student),
    ]),
    false,
  )}`;
}

function curves(lines: readonly MetricsLine[]): string {
  const points = (name: 'loss' | 'eval_loss' | 'kl' | 'eval_kl'): Series['points'] =>
    lines.flatMap((line) => (line[name] === undefined ? [] : [[line.step, line[name]] as const]));
  const loss = chart('loss', [
    { name: 'training', points: points('loss'), colour: 'var(--student)', smooth: true },
    { name: 'evaluation', points: points('eval_loss'), colour: 'var(--ink)', smooth: false },
  ]);
  const kl = chart('distance from the teacher, nats a token', [
    { name: 'training', points: points('kl'), colour: 'var(--student)', smooth: true },
    { name: 'evaluation', points: points('eval_kl'), colour: 'var(--ink)', smooth: false },
  ]);
  return (
    [loss, kl]
      .filter((svg) => svg !== '')
      .map((svg) => `<div class="card">${svg}</div>`)
      .join('\n') || '<p>No line was logged.</p>'
  );
}

/** Cells are HTML; all but the first column are figures. */
function table(head: readonly string[], rows: readonly (readonly string[])[], figures = true): string {
  const side = (i: number): string => (figures && i > 1 ? ' class="n"' : '');
  const row = (cells: readonly string[], tag: 'th' | 'td'): string =>
    `<tr>${cells.map((cell, i) => `<${tag}${side(i)}>${cell}</${tag}>`).join('')}</tr>`;
  return `<div class="card"><table>${row(head, 'th')}${rows.map((cells) => row(cells, 'td')).join('')}</table></div>`;
}

const figure = (name: string, value: string): string => `<div><b>${value}</b><span>${name}</span></div>`;
const number = (value: number | undefined): string => (value === undefined ? 'not measured' : value.toPrecision(4));
const percent = (share: number): string => `${(100 * share).toFixed(1)}%`;

function count(value: number | undefined): string {
  return value === undefined ? '?' : Math.round(value).toLocaleString('en');
}

function bytes(value: number): string {
  const units = ['B', 'kB', 'MB', 'GB'];
  let unit = 0;
  let size = value;
  for (; size >= 1000 && unit < units.length - 1; unit++) size /= 1000;
  return `${unit === 0 ? size : size.toFixed(1)} ${units[unit]}`;
}

function seconds(value: number): string {
  if (value < 90) return `${value.toFixed(0)} s`;
  return value < 5400 ? `${(value / 60).toFixed(1)} min` : `${(value / 3600).toFixed(1)} h`;
}

export function escape(text: string): string {
  const names: Record<string, string> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' };
  return text.replace(/[&<>"']/g, (character) => names[character]!);
}
