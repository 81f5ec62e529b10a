/**
 * `node scripts/cut-table.mjs [--layers 10] [--steps 50] [--tokens 64] [--rows FILE]`: which layers to keep? SmolLM2-135M cut to a
 * few layers by each initialisation, by the same recipe but for `init`: the loss on unseen rows where it starts, and after a
 * few short steps. Writes its part of docs/results.md, anew after each of them: they take long where there is no GPU, and one
 * that fails must not take the others with it. The rows are plain texts, each cut to its first words, so that a step is seconds
 * there.
 */
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { Complaint, root, run, say } from './house.mjs';
import { realModel } from './real-models.mjs';
import { writeResult } from './results.mjs';

const flag = (otherwise) => ({ type: 'string', default: otherwise });
const { values } = parseArgs({
  options: {
    layers: flag('10'),
    steps: flag('50'),
    tokens: flag('64'),
    rows: flag(join(root, '../shared/data/gsm8k/train.jsonl')),
  },
});
const [layers, steps, tokens] = [values.layers, values.steps, values.tokens].map(Number);
// what is asked most first: it may be stopped before its end
const INITS = ['importance', 'even', 'scratch', 'first', 'last'];
const EVAL_ROWS = 8;

const model = realModel('smollm2');
if (!model) throw new Complaint('there is no SmolLM2-135M to cut');
if (!existsSync(values.rows)) throw new Complaint(`there is no ${values.rows}: --rows names a file of questions`);
const folder = mkdtempSync(join(tmpdir(), 'stillroom-cut-'));

/** A question is a text of its own here; what is longer than `tokens` would be left out. */
function writeRows() {
  const lines = readFileSync(resolve(values.rows), 'utf8')
    .split('\n')
    .slice(0, steps + EVAL_ROWS);
  const words = Math.floor(tokens / 2);
  const texts = lines.map((line) => JSON.parse(line).question.split(' ').slice(0, words).join(' '));
  writeFileSync(join(folder, 'rows.jsonl'), texts.map((text) => `${JSON.stringify({ text })}\n`).join(''));
}

async function reportOf(init) {
  const recipe = {
    name: `cut-${init}`,
    seed: 42,
    student: { model, compress: { num_hidden_layers: layers, init } },
    teacher: { kind: 'none' },
    data: {
      source: './rows.jsonl',
      format: 'text',
      eval_fraction: EVAL_ROWS / (steps + EVAL_ROWS),
      max_length: tokens,
    },
    lora: null,
    training: {
      per_device_train_batch_size: 1,
      per_device_eval_batch_size: EVAL_ROWS,
      max_steps: steps,
      learning_rate: 3e-4,
      logging_steps: 10,
      eval_strategy: 'steps',
      eval_steps: steps,
      save_steps: steps,
      save_total_limit: 1,
    },
    evaluate: { tasks: [] },
    export: { onnx: [], adapter: false },
  };
  const file = join(folder, `${init}.json`);
  const out = join(folder, init);
  writeFileSync(file, JSON.stringify(recipe));
  const { code, output } = await run(process.execPath, [join(root, 'scripts/start.mjs'), 'run', file, '--out', out], {
    quiet: true,
  });
  if (code !== 0) throw new Error(`${init}: ${output}`);
  const report = JSON.parse(readFileSync(join(out, 'report.json'), 'utf8'));
  rmSync(out, { recursive: true, force: true });
  return report;
}

function writeTable(rows, { data, adapter }) {
  writeResult(
    'Which layers to keep?',
    `SmolLM2-135M-Instruct cut to ${layers} of its 30 layers by each \`init\`, then all its weights trained from text alone for ${steps} steps of one row each: ${data.train_rows} beginnings of GSM8K's questions of at most ${tokens} tokens. Loss a token on ${data.eval_rows} rows that it does not train on. Made by \`node scripts/cut-table.mjs --layers ${layers} --steps ${steps} --tokens ${tokens}\` on ${new Date().toISOString().slice(0, 10)}, adapter ${adapter.vendor} ${adapter.architecture}; one seed, so that small differences say nothing.

| init | loss at the start | after ${steps} steps | training |
| --- | --- | --- | --- |
${rows.join('\n')}
`,
  );
}

try {
  writeRows();
  const rows = [];
  for (const init of INITS) {
    try {
      const report = await reportOf(init);
      const { eval_loss_before, eval_loss_after, seconds } = report.train;
      const [before, after] = [eval_loss_before, eval_loss_after].map((loss) => loss.toFixed(3));
      rows.push(`| ${init} | ${before} | ${after} | ${seconds.toFixed(0)} s |`);
      writeTable(rows, report);
      say(rows.at(-1));
    } catch (error) {
      say(error.message);
      process.exitCode = 1;
    }
  }
} finally {
  rmSync(folder, { recursive: true, force: true });
}
