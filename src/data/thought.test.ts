/** A template that leaves thoughts out is noticed, in a conversation, a prompt with its completion, and in the report. */
import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { MemorySource, type FileSource } from '../formats/byte-source.ts';
import { loadTokenizer } from '../models/tokenizer.ts';
import { parseRecipe } from '../recipe/parse.ts';
import { prepareData } from './prepare.ts';
import { leavesThoughtOut } from './thought.ts';

const said = (content: string, more: object = {}) => [
  { role: 'user', content: 'q' },
  { role: 'assistant', content, ...more },
];

it.each([
  ['the thought is there', said('<think>\nbecause\n</think>\n\na'), 'q because a', false],
  ['the thought is not there', said('<think>\nbecause\n</think>\n\na'), 'q a', true],
  ['its beginning was the template’s', said('because</think>a'), 'q a', true],
  ['the thought has a field of its own', said('a', { reasoning_content: 'because' }), 'q a', true],
  ['that field is written', said('a', { reasoning_content: ' because ' }), 'q because a', false],
  ['there is none', said('a'), 'a', false],
  ['it is empty, as of models that were told not to think', said('<think>\n\n</think>\n\na'), 'a', false],
  ['nobody answers', [{ role: 'user', content: '<think>x</think>' }], '', false],
  ['it is that of an earlier turn', [...said('<think>x</think>a'), ...said('<think>y</think>b')], 'q a q y b', false],
])('where %s', (_, messages, text, lost) => {
  expect(leavesThoughtOut(messages, text)).toBe(lost);
});

/** DeepSeek-R1's way. */
const FORGETS =
  "{% for m in messages %}{{ m.content.split('</think>')[-1] }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}";
const KEEPS =
  "{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}";

it.each([
  [FORGETS, { assistant_only_loss: false }, 2],
  [FORGETS, { assistant_only_loss: true }, 2],
  [KEEPS, { assistant_only_loss: false }, undefined],
])('%s with %j is said of %s rows', async (template, over, rows) => {
  const tokenizer = await loadTokenizer(withTemplate(template));
  const thought = { role: 'assistant', content: '<think>7 + 8 = 15</think> 15' };
  const question = { role: 'user', content: '7 + 8 = ?' };
  const lines = [
    { messages: [question, thought] },
    { messages: [question, { role: 'assistant', content: '15' }] },
    { messages: [question, { ...thought, content: `${thought.content}.` }] },
  ];
  const file = new MemorySource('rows.jsonl', new TextEncoder().encode(lines.map((l) => JSON.stringify(l)).join('\n')));
  const { data } = parseRecipe(
    { student: { model: 'm' }, data: { source: 'rows.jsonl', eval_fraction: 0.34, ...over } },
    'recipe',
  );
  const { report } = await prepareData(file, data, tokenizer, 1);
  expect(report.kept).toBe(3);
  expect(report.without_thought).toBe(rows);
});

function withTemplate(template: string): FileSource {
  return {
    name: 'student',
    async open(name) {
      if (name === 'chat_template.jinja') return new MemorySource(name, new TextEncoder().encode(template));
      const known = ['tokenizer.json', 'tokenizer_config.json', 'config.json'].includes(name);
      return known
        ? new MemorySource(name, Uint8Array.from(readFileSync(`public/bundled/arithmetic/${name}`)))
        : undefined;
    },
  };
}
