/**
 * Answers that a server writes, through `/v1/chat/completions`, which all of them have. What it thought beforehand comes in a
 * field of its own where the server takes it apart (`reasoning_content`, or `reasoning` in newer ones), else in the text.
 */
import { isJsonObject } from '../../formats/strict-json.ts';
import { takenApart } from '../../models/thought.ts';
import type { EndpointServer } from './server.ts';

export interface AnswerSettings {
  readonly temperature: number;
  readonly top_p: number;
  readonly max_new_tokens: number;
  readonly stop: readonly string[];
}

export interface WrittenAnswer {
  /** What it says, without what it thought. */
  readonly content: string;
  /** What it thought; absent where it did not. */
  readonly reasoning?: string;
  /** Whether it came to its end by itself. */
  readonly whole: boolean;
}

export async function writeAnswer(
  server: EndpointServer,
  model: string,
  messages: readonly { readonly role: string; readonly content: string }[],
  settings: AnswerSettings,
  seed: number,
): Promise<WrittenAnswer> {
  const { temperature, top_p, max_new_tokens, stop } = settings;
  const { choices } = await server.post('/chat/completions', {
    model,
    messages,
    temperature,
    top_p,
    max_tokens: max_new_tokens,
    seed,
    ...(stop.length > 0 && { stop }),
  });
  const choice: unknown = Array.isArray(choices) ? choices[0] : undefined;
  const message = isJsonObject(choice) ? choice['message'] : undefined;
  if (!isJsonObject(choice) || !isJsonObject(message)) {
    throw server.fault('answers without a message', 'an OpenAI-compatible server (choices[0].message)');
  }
  const text = typeof message['content'] === 'string' ? message['content'] : '';
  const apart = message['reasoning_content'] ?? message['reasoning'];
  const thought =
    typeof apart === 'string' && apart.trim() !== '' ? { content: text, reasoning: apart } : takenApart(text);
  return { ...trimmed(thought), whole: choice['finish_reason'] !== 'length' };
}

const trimmed = ({ content, reasoning }: { content: string; reasoning?: string }) => ({
  content: content.trim(),
  ...(reasoning !== undefined && { reasoning: reasoning.trim() }),
});
