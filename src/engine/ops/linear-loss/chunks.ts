/**
 * Cutting the rows of a language model's head into chunks, so that logits exist for one chunk at a time.
 *
 * Each chunk reads the whole head once, so few large chunks are cheap and many small ones are not (Liger's rule of
 * V / H chunks would read a 260 MiB head 128 times): as many rows as a budget of 32 MiB holds, at least 128.
 */
export interface Chunk {
  readonly start: number;
  readonly rows: number;
}

const BUDGET_BYTES = 32 * 2 ** 20;
/** Windows of [rows] must start at multiples of 256 bytes. */
const ALIGN_ROWS = 64;

export function chunksOf(rows: number, vocab: number, maxBindingBytes: number): Chunk[] {
  const fits = Math.floor(Math.min(Math.max(BUDGET_BYTES, 128 * 4 * vocab), maxBindingBytes) / (4 * vocab));
  const size = Math.max(ALIGN_ROWS, Math.floor(fits / ALIGN_ROWS) * ALIGN_ROWS);
  const chunks: Chunk[] = [];
  for (let start = 0; start < rows; start += size) chunks.push({ start, rows: Math.min(size, rows - start) });
  return chunks;
}
