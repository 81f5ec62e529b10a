/** How an answer carries its thought depends on what the student's template does with it. */
import { describe, expect, it } from 'vitest';
import { ChatTemplate } from '../../models/chat-template.ts';
import { thoughtIn } from './thought.ts';

const template = (answer: string): ChatTemplate =>
  new ChatTemplate(
    `{% for m in messages %}{% if m.role == 'user' %}<user>{{ m.content }}{% else %}<bot>${answer}{% endif %}{% endfor %}`,
    {},
    'chat_template.jinja',
  );
const prompt = [{ role: 'user', content: 'q' }];

describe('a thought before an answer', () => {
  it('is in the text where the template writes the text', () => {
    expect(thoughtIn(template('{{ m.content }}'), prompt, 'because', 'a')).toEqual({
      role: 'assistant',
      content: '<think>\nbecause\n</think>\n\na',
    });
  });

  it('is in its field where the template takes thoughts out of the text', () => {
    const qwen3 = template("<think>{{ m.reasoning_content }}</think>{{ m.content.split('</think>')[-1] }}");
    expect(thoughtIn(qwen3, prompt, 'because', 'a')).toEqual({
      role: 'assistant',
      content: 'a',
      reasoning_content: 'because',
    });
  });

  it('is refused where the template drops it', () => {
    expect(() => thoughtIn(template("{{ m.content.split('</think>')[-1] }}"), prompt, 'because', 'a')).toThrow(
      'student: chat template: leaves out what the teacher thought before its answer: ' +
        'distill.answers.reasoning false, which leaves it out knowingly, or another template',
    );
  });

  it('is in the text of a plain completion', () => {
    expect(thoughtIn(undefined, 'q', 'because', 'a').content).toBe('<think>\nbecause\n</think>\n\na');
  });
});
