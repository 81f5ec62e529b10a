/** `{ "prompt": "…", "completion": "…" }`, both texts or both lists of messages. */
import { RowError } from '../row.ts';
import { conversation, refuseUnanswered, toolsOf } from './messages.ts';
import { textOf, type Shape } from './shape.ts';

export const promptCompletion: Shape = {
  name: 'prompt_completion',
  columns: 'prompt, completion',
  fits: (value) => 'prompt' in value && 'completion' in value,
  toRow: (value) => {
    if (Array.isArray(value['prompt']) !== Array.isArray(value['completion'])) {
      throw new RowError('completion', 'is not of the prompt’s kind', 'both texts, or both lists of messages');
    }
    if (!Array.isArray(value['prompt'])) {
      return { prompt: textOf(value, 'prompt'), completion: textOf(value, 'completion') };
    }
    const completion = conversation(value['completion'], 'completion');
    refuseUnanswered(completion, 'completion');
    return { prompt: conversation(value['prompt'], 'prompt'), completion, ...toolsOf(value) };
  },
};
