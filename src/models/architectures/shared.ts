/** What the readings of several configs share. */
import type { ConfigReader } from '../config.ts';

/** A model with a head keeps its encoder's names under a prefix, a bare one does not. */
export function prefixOf(prefix: string, stored: ReadonlySet<string>): string {
  const bare = 'embeddings.word_embeddings.weight';
  return stored.has(bare) && !stored.has(`${prefix}${bare}`) ? '' : prefix;
}

/** How many heads share the hidden size evenly. */
export function headDivides(config: ConfigReader, field: string, hidden: number, otherwise = 12): number {
  const heads = config.count(field, otherwise);
  if (hidden % heads !== 0) throw config.wrong(field, heads, `a divisor of the hidden size ${hidden}`);
  return heads;
}
