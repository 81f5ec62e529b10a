/** What a model wrote, taken apart into what it thought and what it answered, as DeepSeek-R1's does between <think> and </think>. */

/** Of a model whose prompt opens the thought, the text begins inside it. */
export function takenApart(text: string): { content: string; reasoning?: string } {
  const end = text.lastIndexOf('</think>');
  if (end >= 0) {
    const reasoning = text.slice(0, end).replace(/^\s*<think>/, '');
    return { content: text.slice(end + '</think>'.length), ...(reasoning.trim() !== '' && { reasoning }) };
  }
  // A thought that was cut off is no answer.
  return { content: /^\s*<think>/.test(text) ? '' : text };
}
