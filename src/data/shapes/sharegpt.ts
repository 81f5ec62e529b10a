/** `{ "conversations": [{ "from": "human", "value": "…" }, { "from": "gpt", "value": "…" }], "tools"?, "system"? }` */
import { isJsonObject } from '../../formats/strict-json.ts';
import { RowError } from '../row.ts';
import { conversation, refuseUnanswered, toolsOf } from './messages.ts';
import { optionalText, type Shape } from './shape.ts';

/** Speakers as ShareGPT and LLaMA-Factory name them. */
const ROLES: Record<string, string> = {
  human: 'user',
  user: 'user',
  gpt: 'assistant',
  assistant: 'assistant',
  bing: 'assistant',
  chatgpt: 'assistant',
  system: 'system',
  function_call: 'assistant',
  observation: 'tool',
  tool: 'tool',
};

export const sharegpt: Shape = {
  name: 'sharegpt',
  columns: 'conversations (from, value)',
  fits: (value) => Array.isArray(value['conversations']),
  toRow: (value) => {
    const turns = value['conversations'];
    if (!Array.isArray(turns)) throw new RowError('conversations', 'is not a list', 'a list of turns');
    const spoken = turns.map((turn: unknown, i) => {
      const place = `conversations.${i}`;
      if (!isJsonObject(turn)) throw new RowError(place, 'is not an object', '{ "from": …, "value": … }');
      // Some files already hold role and content under this name.
      const from = turn['from'] ?? turn['role'];
      const role = typeof from === 'string' ? ROLES[from] : undefined;
      if (role === undefined)
        throw new RowError(`${place}.from`, `is ${JSON.stringify(from) ?? 'missing'}`, Object.keys(ROLES).join(', '));
      return { role, content: turn['value'] ?? turn['content'] };
    });
    const system = optionalText(value, 'system');
    const all = conversation(system ? [{ role: 'system', content: system }, ...spoken] : spoken, 'conversations');
    refuseUnanswered(all, 'conversations');
    return { messages: all, ...toolsOf(value) };
  },
};
