import { describe, expect, it } from 'vitest';
import { readDamaged } from '../formats/mutation.testing.ts';
import { ChatTemplate, renderChat, type Message } from './chat-template.ts';

const CHATML = `{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}`;
/** Old thoughts are thrown away, the last one is kept and always written: as Qwen3 does. */
const FORGETFUL = `{% for m in messages %}{% set content = m.content %}{% if m.role == 'assistant' and not loop.last %}{% set content = content.split('</think>')[-1] | trim %}{% endif %}{{ '<|im_start|>' + m.role + '\\n' + content + '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}`;

const talk: Message[] = [
  { role: 'user', content: 'one' },
  { role: 'assistant', content: '<think>a</think>\n\nuno' },
  { role: 'user', content: 'two' },
  { role: 'assistant', content: '<think>b</think>\n\ndos' },
];

const said = (template: string, messages = talk) => {
  const { text, assistantSpans } = renderChat(template, messages, { special_tokens: { eos_token: '<|im_end|>' } });
  return assistantSpans.map(([start, end]) => text.slice(start, end));
};

const refusal = (template: string, messages = talk): string => {
  try {
    new ChatTemplate(template, {}).render(messages);
  } catch (error) {
    return (error as Error).message;
  }
  throw new Error('was accepted');
};

describe('what the assistant says', () => {
  it('is found between the ends of prompts where the template does not mark it', () => {
    expect(said(CHATML)).toEqual(['<think>a</think>\n\nuno<|im_end|>\n', '<think>b</think>\n\ndos<|im_end|>\n']);
  });

  it('is found where old turns are written in another way', () => {
    expect(said(FORGETFUL)).toEqual(['uno<|im_end|>\n', '<think>b</think>\n\ndos<|im_end|>\n']);
  });

  it('is found beside a prompt that opens a thought, as DeepSeek-R1’s does', () => {
    const opens = `{% for m in messages %}{{ '<' + m.role + '>' + m.content.split('</think>')[-1] }}{% if m.role == 'assistant' %}<end>{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<assistant><think>\n' }}{% endif %}`;
    const asked = [...talk, { role: 'user', content: 'three' }];
    for (const add_generation_prompt of [false, true]) {
      const { text, assistantSpans } = renderChat(opens, asked, { add_generation_prompt });
      expect(assistantSpans.map(([start, end]) => text.slice(start, end))).toEqual(['uno<end>', 'dos<end>']);
    }
  });

  // Whitespace by transformers 5 (trim_blocks, lstrip_blocks), written down from Python.
  it.each([
    ['A\n{% generation %}\nB\n{% endgeneration %}\nC', 'A\nB\nC', ['B\n']],
    ['A\n  {%- generation -%}\n B \n {%- endgeneration %}\nC', 'ABC', ['B']],
    ['A {% generation %} B {% endgeneration %} C', 'A  B  C', [' B ']],
    ['A\r\n   {% generation %}B{% endgeneration %}\r\n', 'A\nB', ['B']],
  ])('is what %j marks', (template, text, spans) => {
    const rendered = renderChat(template, talk);
    expect(rendered.text).toBe(text);
    expect(rendered.assistantSpans.map(([start, end]) => text.slice(start, end))).toEqual(spans);
    expect(new ChatTemplate(template, {}).render(talk)).toBe(text);
  });

  it('is found though the messages hold the sentinels themselves', () => {
    const odd = [{ role: 'assistant', content: '\uFDD0x\uFDD1' }];
    expect(said('{% generation %}{{ messages[0].content }}{% endgeneration %}', odd)).toEqual(['\uFDD0x\uFDD1']);
  });

  it('is refused where it cannot be found', () => {
    expect(() => renderChat(`{{ messages | length }}`, talk)).toThrow(
      'chat_template.jinja: does not let the assistant’s part be found: {% generation %} … {% endgeneration %} around it',
    );
  });
});

describe('templates of strangers', () => {
  it.each([
    [
      'throws',
      `{{ raise_exception('no system, please') }}`,
      'refuses these messages (no system, please): messages in the order that the template expects',
    ],
    ['is no Jinja', '{% for %}', 'is not a Jinja template'],
    ['calls what is not there', '{{ messages.nothing.at.all() }}', 'fails ('],
    ['loops in loops', `{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}`, 'takes '],
    [
      'asks for a long range',
      '{% for a in range(1000000000) %}x{% endfor %}',
      'asks for a range of 1000000000: a chat template that ends',
    ],
    [
      'grows a text',
      `{% set ns = namespace(x='ab') %}{% for a in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}`,
      'writes too much text: a chat template that ends',
    ],
    [
      'grows a list',
      `{% set ns = namespace(x=[1]) %}{% for a in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}`,
      'makes too long a list',
    ],
    ['is nested too deep', `{{ ${'('.repeat(20_000)}`, 'is not a Jinja template (Maximum call stack'],
    [
      'multiplies a text by itself',
      `{% set ns = namespace(x='a') %}{% for a in range(20) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x.replace('a', ns.x) }}`,
      'goes too deep or too far (',
    ],
    ['opens a block twice', '{% generation %}{% generation %}', 'has an {% generation %} without its other half'],
    ['never ends a block', '{% generation %}', 'has a {% generation %} that never ends'],
    ['is huge', 'x'.repeat(200_000), 'is 200000 characters long'],
    ['is full of blanks', `{{ 1 }}${' '.repeat(5000)}{{ 2 }}`, 'holds 2000 blanks in a row'],
  ])(
    'one that %s is refused in words',
    (_, template, words) => {
      const started = Date.now();
      expect(refusal(template)).toContain(`chat_template.jinja: ${words}`);
      // The clock's own limit is 3 s; the rest is a slow machine's.
      expect(Date.now() - started).toBeLessThan(10_000);
    },
    15_000,
  );

  it('give a text or an InputError, 1,000 times', async () => {
    const seeds = [CHATML, FORGETFUL].map((text) => new TextEncoder().encode(text));
    const outcomes = await readDamaged(seeds, 1000, async (bytes) => {
      renderChat(new TextDecoder().decode(bytes), talk, { special_tokens: { eos_token: '<|im_end|>' } });
    });
    expect(outcomes.read).toBeGreaterThan(50);
    expect(outcomes.refused).toBeGreaterThan(50);
  }, 60_000);

  it('read the date as Python writes it', () => {
    expect(new ChatTemplate(`{{ strftime_now('%d %b %Y') }}`, {}).render([])).toMatch(/^\d\d [A-Z][a-z]{2} \d{4}$/);
  });
});
