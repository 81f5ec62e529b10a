/**
 * Packing as TRL's strategy "bfd" (trl/data_utils.py, _pack_bfd): best-fit decreasing within every 1,000 rows in a row,
 * which is the batch that `datasets.map` hands it. Rows keep their order where they are equally long.
 */

/** Rows that datasets.map hands over at once. */
const MAP_BATCH = 1000;

/**
 * @param lengths tokens of each row, each from 1 to capacity
 * @returns packs of row numbers
 */
export function packBfd(lengths: readonly number[], capacity: number): number[][] {
  const packs: number[][] = [];
  for (let from = 0; from < lengths.length; from += MAP_BATCH) {
    const count = Math.min(MAP_BATCH, lengths.length - from);
    const order = Array.from({ length: count }, (_, i) => from + i).sort((a, b) => lengths[b]! - lengths[a]!);
    /** bySpace[s]: packs with exactly s tokens free, the longest waiting first. */
    const bySpace = Array.from({ length: capacity }, (): number[][] => []);
    for (const row of order) {
      const length = lengths[row]!;
      let space = length;
      while (space < capacity && bySpace[space]!.length === 0) space++;
      let pack: number[];
      if (space < capacity) pack = bySpace[space]!.shift()!;
      else packs.push((pack = []));
      pack.push(row);
      if (space > length) bySpace[space - length]!.push(pack);
    }
  }
  return packs;
}
