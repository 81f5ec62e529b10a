/**
 * Measures what the first screen's card shows: for every token of one unseen answer of the bundled example the likeliest next
 * tokens, by the teacher, the student before and the student after the bundled distillation. Writes public/bundled/word.json;
 * run it again when the bundled teacher or recipe changes: `node scripts/bundled-word.mjs`. Takes about as long as that run.
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Tokenizer } from '@huggingface/tokenizers';

const root = fileURLToPath(new URL('..', import.meta.url));
const bundled = join(root, 'public/bundled');
const model = join(bundled, 'arithmetic');
/** Which row of test.jsonl; one with a carry, where the next word is not plain to see. */
const ROW = 1;
const SHOWN = 5;
const json = (path) => JSON.parse(readFileSync(path, 'utf8'));
const folder = mkdtempSync(join(tmpdir(), 'stillroom-word-'));

function stillroom(...args) {
  const { status } = spawnSync(process.execPath, [join(root, 'scripts/start.mjs'), ...args], { stdio: 'inherit' });
  if (status !== 0) throw new Error(`${args.join(' ')} ended with ${status}`);
}

/** The bundled student as safetensors, after `training`. */
function student(name, training) {
  const recipe = json(join(bundled, 'recipe.json'));
  const file = join(folder, `${name}.json`);
  const changed = {
    ...recipe,
    name,
    training: { ...recipe.training, eval_strategy: 'no', ...training },
    evaluate: { tasks: [] },
    export: { onnx: [], adapter: false, safetensors: true },
  };
  writeFileSync(file, JSON.stringify(changed));
  stillroom('run', file, '--out', join(folder, name));
  return join(folder, name, 'model');
}

/** One safetensors file of int64 rows [1, length]. */
function inputs(ids) {
  const names = ['input_ids', 'attention_mask'];
  const bytes = ids.length * 8;
  const header = Object.fromEntries(
    names.map((name, i) => [
      name,
      { dtype: 'I64', shape: [1, ids.length], data_offsets: [i * bytes, (i + 1) * bytes] },
    ]),
  );
  const text = Buffer.from(JSON.stringify(header));
  const head = Buffer.concat([text, Buffer.alloc((8 - (text.length % 8)) % 8, ' ')]);
  const size = Buffer.alloc(8);
  size.writeBigUInt64LE(BigInt(head.length));
  const ones = ids.map(() => 1n);
  return Buffer.concat([size, head, Buffer.from(new BigInt64Array([...ids.map(BigInt), ...ones]).buffer)]);
}

/** softmax of the logits at every position: [T][V]. */
function probabilities(modelFolder, file) {
  const out = `${file}.out`;
  stillroom('forward', modelFolder, '--inputs', file, '--out', out);
  const bytes = readFileSync(out);
  const length = Number(bytes.readBigUInt64LE(0));
  const { shape, data_offsets } = JSON.parse(bytes.subarray(8, 8 + length).toString()).logits;
  const [, positions, vocabulary] = shape;
  const start = 8 + length + data_offsets[0];
  const logits = Array.from({ length: positions * vocabulary }, (_, i) => bytes.readFloatLE(start + i * 4));
  return Array.from({ length: positions }, (_, t) => {
    const row = logits.slice(t * vocabulary, (t + 1) * vocabulary);
    const most = Math.max(...row);
    const weights = row.map((z) => Math.exp(z - most));
    const sum = weights.reduce((a, b) => a + b, 0);
    return weights.map((weight) => weight / sum);
  });
}

try {
  const tokenizer = new Tokenizer(json(join(model, 'tokenizer.json')), json(join(model, 'tokenizer_config.json')));
  const [user, assistant] = JSON.parse(
    readFileSync(join(bundled, 'arithmetic/test.jsonl'), 'utf8').split('\n')[ROW],
  ).messages;
  const ids = (text) => tokenizer.encode(text, { add_special_tokens: false }).ids;
  const prompt = ids(`<|im_start|>user\n${user.content}<|im_end|>\n<|im_start|>assistant\n`);
  const answer = ids(`${assistant.content}<|im_end|>`);
  const file = join(folder, 'inputs.safetensors');
  writeFileSync(file, inputs([...prompt, ...answer]));

  const teacher = probabilities(model, file);
  const before = probabilities(student('before', { max_steps: 1, learning_rate: 0 }), file);
  const after = probabilities(student('after', {}), file);

  const round = (p) => Number(p.toFixed(4));
  const words = answer.slice(0, -1).map((id, i) => {
    const at = prompt.length + i - 1;
    // Whatever any of the three finds likely, the likeliest first.
    const weight = (token) => Math.max(teacher[at][token], before[at][token] * 0.999, after[at][token] * 0.999);
    const tokens = teacher[at].map((_, token) => token).sort((a, b) => weight(b) - weight(a));
    return {
      token: tokenizer.decode([id], { skip_special_tokens: false }),
      choices: tokens
        .slice(0, SHOWN)
        .sort((a, b) => teacher[at][b] - teacher[at][a])
        .map((token) => ({
          token: tokenizer.decode([token], { skip_special_tokens: false }),
          teacher: round(teacher[at][token]),
          before: round(before[at][token]),
          after: round(after[at][token]),
        })),
    };
  });
  // Shown first: where the distillation changed most.
  const moved = ({ choices }) => Math.max(...choices.map((choice) => choice.after - choice.before));
  const show = words.reduce((best, word, i) => (moved(word) > moved(words[best]) ? i : best), 0);
  writeFileSync(join(bundled, 'word.json'), `${JSON.stringify({ prompt: `${user.content} `, words, show })}\n`);
} finally {
  rmSync(folder, { recursive: true, force: true });
}
