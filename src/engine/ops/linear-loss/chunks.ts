/**
 * Cutting the rows of a language model's head into chunks, so that logits exist for one chunk at a time.
 *
 * Each chunk reads the whole head once, so few large chunks are cheap and many small ones are not (Liger's rule of
 * V / H chunks would read a 260 MiB head 128 times): as many rows as 32 MiB hold, at least 128. From 256 rows on more of them
 * gain nothing but memory, which beside a small model counts: there 2 MiB are enough.
 */
export interface Chunk {
  readonly start: number;
  readonly rows: number;
}

const MOST_BYTES = 32 * 2 ** 20;
const ENOUGH_BYTES = 2 * 2 ** 20;
const LEAST_ROWS = 128;
const ENOUGH_ROWS = 256;
/** Windows of [rows] must start at multiples of 256 bytes. */
const ALIGN_ROWS = 64;

export function chunksOf(rows: number, vocab: number, maxBindingBytes: number): Chunk[] {
  const rowsIn = (bytes: number): number => Math.floor(bytes / (4 * vocab));
  const wanted = Math.max(LEAST_ROWS, rowsIn(ENOUGH_BYTES), Math.min(ENOUGH_ROWS, rowsIn(MOST_BYTES)));
  const fits = Math.min(wanted, rowsIn(maxBindingBytes));
  const size = Math.max(ALIGN_ROWS, Math.floor(fits / ALIGN_ROWS) * ALIGN_ROWS);
  const chunks: Chunk[] = [];
  for (let start = 0; start < rows; start += size) chunks.push({ start, rows: Math.min(size, rows - start) });
  return chunks;
}
