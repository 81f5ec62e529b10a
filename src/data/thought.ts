/**
 * What an assistant thinks before it answers, and chat templates that leave it out: DeepSeek-R1's cuts everything up to
 * </think> from what was said, so that a student of such rows learns answers without the thoughts that they came from.
 */
import type { Message } from '../models/chat-template.ts';
import { takenApart } from '../models/thought.ts';

/**
 * Whether the thought before the last answer is not in the text that the template made of the conversation. Those of earlier
 * turns are no loss: a template that leaves them out does so when the model answers, too.
 */
export function leavesThoughtOut(messages: readonly Message[], text: string): boolean {
  const last = messages.findLast(({ role }) => role === 'assistant');
  if (!last) return false;
  const { content, reasoning_content: apart } = last;
  const thought = typeof apart === 'string' && apart.trim() !== '' ? apart : takenApart(content).reasoning;
  return thought !== undefined && !text.includes(thought.trim());
}
