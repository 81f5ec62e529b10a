/**
 * JSON.parse that refuses an object with the same key twice. JSON.parse keeps the last one silently, so two readers of
 * one file could see two different tensors.
 */

/** Throws SyntaxError on invalid JSON or a repeated key. */
export function parseStrictJson(text: string): unknown {
  const value: unknown = JSON.parse(text);
  // The text is valid JSON from here on, so a walk over its punctuation finds every key.
  const open: (Set<string> | undefined)[] = [];
  let keyNext = false;
  for (let i = 0; i < text.length; i++) {
    const character = text[i];
    if (character === '"') {
      const start = i;
      for (i++; text[i] !== '"'; i++) if (text[i] === '\\') i++;
      if (!keyNext) continue;
      keyNext = false;
      const key = JSON.parse(text.slice(start, i + 1)) as string;
      const keys = open.at(-1)!;
      if (keys.has(key)) throw new SyntaxError(`the key ${JSON.stringify(key)} appears twice`);
      keys.add(key);
    } else if (character === '{') {
      open.push(new Set());
      keyNext = true;
    } else if (character === '[') {
      open.push(undefined);
      keyNext = false;
    } else if (character === '}' || character === ']') {
      open.pop();
      keyNext = false;
    } else if (character === ',') {
      keyNext = open.at(-1) !== undefined;
    }
  }
  return value;
}

export type JsonObject = { [key: string]: unknown };

export function isJsonObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
