/**
 * An answer with what was thought before it, as the student's chat template writes it: in the text between <think> and
 * </think>, or in a field of its own where the template reads `reasoning_content`. A template that leaves thoughts out of
 * what is learnt (DeepSeek-R1's does) is refused, as the student would learn answers without them.
 */
import { InputError } from '../../formats/input-error.ts';
import type { ChatTemplate, Message } from '../../models/chat-template.ts';

/** @param template undefined where the answer is plain text */
export function thoughtIn(
  template: ChatTemplate | undefined,
  prompt: readonly Message[] | string,
  reasoning: string,
  content: string,
): Message {
  const joined: Message = { role: 'assistant', content: `<think>\n${reasoning}\n</think>\n\n${content}` };
  if (template === undefined || typeof prompt === 'string') return joined;
  const apart: Message = { role: 'assistant', content, reasoning_content: reasoning };
  const written = [joined, apart].find((message) => template.render([...prompt, message]).includes(reasoning));
  if (written) return written;
  throw new InputError(
    'student',
    'chat template',
    'leaves out what the teacher thought before its answer',
    'distill.answers.reasoning false, which leaves it out knowingly, or another template',
  );
}
