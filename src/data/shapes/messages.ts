/** `{ "messages": [{ "role": "user", "content": "…" }, { "role": "assistant", "content": "…" }], "tools": […]? }` */
import { isJsonObject, type JsonObject } from '../../formats/strict-json.ts';
import type { Message } from '../../models/chat-template.ts';
import { RowError } from '../row.ts';
import type { Shape } from './shape.ts';

export const messages: Shape = {
  name: 'messages',
  columns: 'messages',
  fits: (value) => Array.isArray(value['messages']),
  toRow: (value) => {
    const all = conversation(value['messages'], 'messages');
    refuseUnanswered(all, 'messages');
    return { messages: all, ...toolsOf(value) };
  },
};

/** A list of messages; contents given in parts are joined where the parts are texts. */
export function conversation(value: unknown, field: string): Message[] {
  if (!Array.isArray(value)) throw new RowError(field, 'is not a list', 'a list of messages');
  if (value.length === 0) throw new RowError(field, 'is empty', 'at least one message');
  return value.map((message: unknown, i) => {
    const place = `${field}.${i}`;
    if (!isJsonObject(message)) throw new RowError(place, 'is not an object', '{ "role": …, "content": … }');
    const role = message['role'];
    if (typeof role !== 'string' || role === '')
      throw new RowError(`${place}.role`, 'is missing', '"system", "user", "assistant" or "tool"');
    return { ...message, role, content: contentOf(message, place) };
  });
}

function contentOf(message: JsonObject, place: string): string {
  const { content } = message;
  if (typeof content === 'string') return content;
  const calls = message['tool_calls'];
  if ((content === null || content === undefined) && Array.isArray(calls) && calls.length > 0) return '';
  if (Array.isArray(content)) {
    return content
      .map((part: unknown) => {
        const text = isJsonObject(part) ? part['text'] : part;
        if (typeof text !== 'string') throw new RowError(`${place}.content`, 'holds a part that is not text', 'text');
        return text;
      })
      .join('');
  }
  throw new RowError(`${place}.content`, content === undefined ? 'is missing' : 'is not a text', 'a text');
}

/** Something the assistant says is what there is to learn. */
export function refuseUnanswered(all: readonly Message[], field: string): void {
  const answers = all.filter(({ role }) => role === 'assistant');
  if (answers.length === 0) throw new RowError(field, 'has no answer', 'a message whose role is "assistant"');
  for (const answer of answers) {
    if (answer.content.trim() === '' && !Array.isArray(answer['tool_calls'])) {
      throw new RowError(
        `${field}.${all.indexOf(answer)}.content`,
        'is an empty answer',
        'a text with something in it',
      );
    }
  }
}

/** TRL reads tools from a list or from its JSON. */
export function toolsOf(value: JsonObject): { tools?: readonly unknown[] } {
  let tools = value['tools'];
  if (typeof tools === 'string') {
    if (tools.trim() === '') return {};
    try {
      tools = JSON.parse(tools);
    } catch {
      throw new RowError('tools', 'is not JSON', 'a list of tools');
    }
  }
  if (tools === undefined || tools === null) return {};
  if (!Array.isArray(tools)) throw new RowError('tools', 'is not a list', 'a list of tools');
  return tools.length > 0 ? { tools } : {};
}
