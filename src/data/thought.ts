/**
 * What an assistant thinks before it answers, and chat templates that leave it out: DeepSeek-R1's cuts everything up to
 * </think> from what was said, so that a student of such rows learns answers without the thoughts that they came from.
 */
import type { Message } from '../models/chat-template.ts';

const [OPENS, CLOSES] = ['<think>', '</think>'];

/**
 * Whether the thought before the last answer is not in the text that the template made of the conversation. Those of earlier
 * turns are no loss: a template that leaves them out does so when the model answers, too.
 */
export function leavesThoughtOut(messages: readonly Message[], text: string): boolean {
  const last = messages.findLast(({ role }) => role === 'assistant');
  const thought = last && thoughtOf(last);
  return Boolean(thought) && !text.includes(thought!);
}

function thoughtOf({ content, reasoning_content: apart }: Message): string {
  if (typeof apart === 'string' && apart.trim() !== '') return apart.trim();
  const end = content.lastIndexOf(CLOSES);
  if (end < 0) return '';
  const start = content.lastIndexOf(OPENS, end);
  return content.slice(start < 0 ? 0 : start + OPENS.length, end).trim();
}
