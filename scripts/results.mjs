/** docs/results.md: a part for each question that a script answers, under its own title; a script writes its own part. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { root } from './house.mjs';

const file = join(root, 'docs/results.md');

/** @param {string} title of the part, without `# ` @param {string} text what stands under it */
export function writeResult(title, text) {
  const whole = existsSync(file) ? readFileSync(file, 'utf8') : '';
  writeFileSync(file, withResult(whole, title, text));
}

/** The document with this part made anew where it stood, or added at the end. */
export function withResult(whole, title, text) {
  const parts = whole.split(/^(?=# )/m).map((part) => part.trim());
  const part = `# ${title}\n\n${text.trim()}`;
  const at = parts.findIndex((one) => one.split('\n')[0] === `# ${title}`);
  if (at < 0) parts.push(part);
  else parts[at] = part;
  return `${parts.filter(Boolean).join('\n\n')}\n`;
}
