/**
 * README.md of an exported model: the hub's front matter, what the model is, how it was made, how to run it, and what
 * was measured of its files. (Fields as in the hub's modelcard.md; there is no relation "distill": it is a finetune.)
 */
import { readAll, type FileSource } from '../formats/byte-source.ts';
import type { OnnxDtype } from './onnx/precision/precision.ts';

export interface CardFacts {
  readonly title: string;
  /** Hub name of the base, where it is from the hub. */
  readonly base_model?: string;
  /** Whether weights differ from the base's. */
  readonly trained: boolean;
  readonly distilled: boolean;
  /** The base's, as its card says; see `licenseOf`. */
  readonly license?: string;
  readonly teacher?: string;
  /** Hub names of the data. */
  readonly datasets?: readonly string[];
  readonly parameters: number;
  /** Tokens that stay, where the vocabulary was trimmed. */
  readonly vocabulary?: { readonly kept: number; readonly of: number };
  /** As the hub names it; text-generation where absent. */
  readonly task?: 'text-generation' | 'fill-mask' | 'feature-extraction';
  readonly chat: boolean;
  /** Measured figures, a line each: "Exact match on 50 unseen rows" "0.69 (0.55 to 0.80)". */
  readonly figures?: readonly { readonly name: string; readonly value: string }[];
  /** The recipe as JSON. */
  readonly recipe?: string;
}

export interface CardFile {
  readonly path: string;
  readonly bytes: number;
  readonly dtype: string;
  readonly max_logit_difference?: number;
  readonly top1_agreement?: number;
  readonly eval_loss_before?: number;
  readonly eval_loss_after?: number;
  readonly max_weight_difference?: number;
}

const HUB_NAME = /^[A-Za-z0-9][\w.-]*\/[\w.-]+$/;

export function modelCard(facts: CardFacts, files: readonly CardFile[], dtypes: readonly OnnxDtype[]): string {
  const base = facts.base_model !== undefined && HUB_NAME.test(facts.base_model) ? facts.base_model : undefined;
  const datasets = (facts.datasets ?? []).filter((name) => HUB_NAME.test(name));
  const front = [
    `library_name: ${dtypes.length > 0 ? 'transformers.js' : 'transformers'}`,
    `pipeline_tag: ${facts.task ?? 'text-generation'}`,
    ...(facts.license === undefined ? [] : [`license: ${JSON.stringify(facts.license)}`]),
    ...(base === undefined
      ? []
      : [`base_model: ${base}`, `base_model_relation: ${facts.trained ? 'finetune' : 'quantized'}`]),
    ...(datasets.length === 0 ? [] : ['datasets:', ...datasets.map((name) => `- ${name}`)]),
    'tags:',
    ...[
      ...(dtypes.length > 0 ? ['onnx'] : []),
      ...(files.some(({ path }) => path.endsWith('.gguf')) ? ['gguf'] : []),
      'stillroom',
      ...(facts.distilled ? ['distillation'] : []),
    ].map((tag) => `- ${tag}`),
  ];
  const { vocabulary } = facts;
  const origin = [
    base && `Its base is [${base}](https://huggingface.co/${base}).`,
    facts.teacher && `It learned from ${inline(facts.teacher)}.`,
    vocabulary &&
      `Of ${vocabulary.of.toLocaleString('en')} tokens its vocabulary keeps ${vocabulary.kept.toLocaleString('en')}: those that its data uses, and what any text can be written with.`,
    facts.license === undefined && 'The licence of the base and of the data still applies; no card named one.',
  ].filter(Boolean);
  return `---
${front.join('\n')}
---

# ${facts.title.replace(/\s+/g, ' ')}

A language model of ${count(facts.parameters)} parameters, ${facts.distilled ? 'distilled' : facts.trained ? 'trained' : 'exported'} in the browser with Stillroom. ${origin.join(' ')}
${
  facts.figures?.length
    ? `\n## What was measured\n\n${table(
        ['figure', 'value'],
        facts.figures.map(({ name, value }) => [name, value]),
      )}\n`
    : ''
}
## Use

${usage(facts, files, dtypes)}
## Files

${about(files)}

${table(['file', 'bytes', 'dtype', 'what it is for', 'difference', 'same first choice', 'loss before and after'], files.map(row))}
${facts.recipe === undefined ? '' : `\n## Recipe\n\n\`\`\`json\n${facts.recipe}\n\`\`\`\n`}`;
}

function about(files: readonly CardFile[]): string {
  const parts = [
    files.some(({ path }) => path.startsWith('onnx/')) &&
      `Every ONNX file was opened again and compared with the engine that trained the model: the difference is the largest
of a logit over the largest logit, whole, against its cache, and in a left-padded batch.`,
    files.some(({ path }) => path.endsWith('.gguf')) &&
      `Every GGUF was read again and compared with the weights that were written: the difference is the largest of a
weight over the largest of its tensor.`,
    files.some(({ eval_loss_after }) => eval_loss_after !== undefined) &&
      `The loss is of the same few rows, which nothing was trained on: by the engine, and with what the file holds.`,
  ];
  return parts.filter(Boolean).join('\n');
}

function usage(facts: CardFacts, files: readonly CardFile[], dtypes: readonly OnnxDtype[]): string {
  const ways: string[] = [];
  const { task = 'text-generation' } = facts;
  const prompt = facts.chat ? `[{ role: 'user', content: 'Hello!' }]` : `'Once upon a time'`;
  if (dtypes.length > 0) {
    ways.push(`In a browser or Node, with transformers.js:

\`\`\`js
import { pipeline } from '@huggingface/transformers';

${task === 'text-generation' ? write(prompt) : READ[task]}
\`\`\`

Without a \`dtype\` the file that suits the device is taken; there are ${dtypes.map((dtype) => `\`${dtype}\``).join(', ')}.
`);
  }
  if (files.some(({ path }) => path.endsWith('.safetensors'))) {
    ways.push("With Python's transformers: `" + `${AUTO_CLASS[task]}.from_pretrained('THIS_FOLDER')\`.\n`);
    if (task === 'text-generation') ways.push(servers(files));
  }
  const gguf = files.find(({ path }) => path.endsWith('.gguf'));
  if (gguf) {
    ways.push(`With llama.cpp and what is built on it, or Ollama:

\`\`\`sh
${facts.chat ? `llama-cli -m ${gguf.path}` : `llama-completion -m ${gguf.path} -no-cnv -p 'Once upon a time'`}
ollama create my-model -f Modelfile && ollama run my-model
\`\`\`
`);
  }
  return ways.join('\n');
}

/** Both read a folder as the hub holds it; neither converts or builds anything first. */
function servers(files: readonly CardFile[]): string {
  const weights = files.filter(({ path }) => path.endsWith('.safetensors')).map(({ path }) => `\`${path}\``);
  const read = ['`config.json`', ...weights, 'the files of the tokenizer'].join(', ');
  return `On a server with an NVIDIA GPU, with vLLM or TensorRT-LLM, each of which reads ${read} where it serves this architecture:

\`\`\`sh
vllm serve THIS_FOLDER
trtllm-serve THIS_FOLDER
\`\`\`

Both answer at http://localhost:8000/v1 as OpenAI's API does. vLLM rounds 32-bit weights to 16 bits; with \`--dtype float32\`
it computes as Stillroom did.
`;
}

const write = (prompt: string): string =>
  `const write = await pipeline('text-generation', 'THIS_FOLDER');
const [{ generated_text }] = await write(${prompt}, { max_new_tokens: 128 });`;

const READ = {
  'fill-mask': `const fill = await pipeline('fill-mask', 'THIS_FOLDER');
const guesses = await fill(\`Paris is the \${fill.tokenizer.mask_token} of France.\`);`,
  'feature-extraction': `const embed = await pipeline('feature-extraction', 'THIS_FOLDER');
const vectors = await embed(['A sentence.'], { pooling: 'mean', normalize: true });`,
} as const;

/** Of Python's transformers. */
const AUTO_CLASS = {
  'text-generation': 'AutoModelForCausalLM',
  'fill-mask': 'AutoModelForMaskedLM',
  'feature-extraction': 'AutoModel',
} as const;

/** By dtype, for people who choose: what speaks for it. */
const PURPOSE: Readonly<Record<string, string>> = {
  fp32: 'exact; the reference of the others',
  fp16: 'half the size; GPUs with 16-bit floats',
  q8: 'a quarter of the size; CPUs and WebAssembly',
  q4: 'an eighth of the size; GPUs',
  q4f16: 'an eighth of the size, 16-bit activations; GPUs',
  F32: 'exact; training on, conversion',
  F16: 'half the size, next to exact',
  Q8_0: 'a quarter of the size, hardly a difference',
  Q4_0: 'an eighth of the size; the least memory',
};

function row({ path, bytes, dtype, top1_agreement, ...measured }: CardFile): string[] {
  const difference = measured.max_logit_difference ?? measured.max_weight_difference;
  const { eval_loss_before: before, eval_loss_after: after } = measured;
  return [
    `\`${path}\``,
    bytes.toLocaleString('en'),
    dtype,
    (/_data(_\d+)?$/.test(path) ? 'weights of the file above' : PURPOSE[dtype]) ?? '',
    difference === undefined ? '' : difference.toExponential(1),
    top1_agreement === undefined ? '' : `${(100 * top1_agreement).toFixed(1)}%`,
    before === undefined || after === undefined ? '' : `${before.toFixed(4)} → ${after.toFixed(4)}`,
  ];
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]): string => `| ${cells.map(inline).join(' | ')} |`;
  return [line(head), `|${head.map(() => '---').join('|')}|`, ...rows.map(line)].join('\n');
}

/** Names come from files of others: a cell stays a cell, a line a line. */
function inline(value: string): string {
  return value.replace(/\s+/g, ' ').replace(/\|/g, '\\|').replace(/[<>]/g, '');
}

function count(parameters: number): string {
  if (parameters >= 1e9) return `${(parameters / 1e9).toFixed(2)} billion`;
  if (parameters >= 1e6) return `${(parameters / 1e6).toFixed(1)} million`;
  return parameters.toLocaleString('en');
}

/** The licence that a model folder's own card names in its front matter; a card that is no text names none. */
export async function licenseOf(folder: FileSource): Promise<string | undefined> {
  const source = await folder.open('README.md');
  if (!source) return undefined;
  const card = new TextDecoder().decode(await readAll(source));
  const front = /^---\r?\n([\s\S]*?)\r?\n---/.exec(card)?.[1];
  return front && /^license:\s*["']?([\w.+-]+)["']?\s*$/m.exec(front)?.[1];
}
