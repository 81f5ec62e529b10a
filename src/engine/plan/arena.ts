/**
 * Offsets in one arena from lifetimes: two tensors may share bytes when they never live at the same time.
 *
 * Greedy by size (Pisarchyk & Lee 2020, "Efficient memory management for deep neural net inference", §4.2): the largest
 * tensor first, each at the lowest offset that is free for its whole life.
 */
import type { Operand } from '../graph/types.ts';

/** A tensor is live from the `first` to the `last` step, both included. */
export interface Lifetime {
  readonly bytes: number;
  readonly first: number;
  readonly last: number;
}

export interface Slot {
  /** Which arena buffer. */
  readonly arena: number;
  /** Bytes from its start; a multiple of the device's binding alignment. */
  readonly offset: number;
  readonly bytes: number;
}

export function allocate(
  lifetimes: ReadonlyMap<Operand, Lifetime>,
  limits: { readonly minStorageBufferOffsetAlignment: number; readonly maxBufferSize: number },
): { slots: Map<Operand, Slot>; arenas: number[] } {
  const align = limits.minStorageBufferOffsetAlignment;
  const largestFirst = [...lifetimes].sort(([, a], [, b]) => b.bytes - a.bytes || a.first - b.first);
  const taken: (Lifetime & { start: number; end: number })[][] = [];
  const slots = new Map<Operand, Slot>();

  for (const [operand, life] of largestFirst) {
    const bytes = Math.max(align, Math.ceil(life.bytes / align) * align);
    for (let arena = 0; ; arena++) {
      const neighbours = (taken[arena] ??= []);
      const offset = lowestGap(neighbours, life, bytes);
      if (offset > 0 && offset + bytes > limits.maxBufferSize) continue;
      const entry = { ...life, start: offset, end: offset + bytes };
      neighbours.splice(insertionPoint(neighbours, offset), 0, entry);
      slots.set(operand, { arena, offset, bytes: life.bytes });
      break;
    }
  }
  return { slots, arenas: taken.map((entries) => entries.reduce((end, entry) => Math.max(end, entry.end), 0)) };
}

/** `neighbours` are sorted by start. */
function lowestGap(
  neighbours: readonly (Lifetime & { start: number; end: number })[],
  life: Lifetime,
  bytes: number,
): number {
  let free = 0;
  for (const other of neighbours) {
    if (other.last < life.first || other.first > life.last) continue;
    if (other.start - free >= bytes) break;
    free = Math.max(free, other.end);
  }
  return free;
}

function insertionPoint(sorted: readonly { start: number }[], start: number): number {
  let low = 0;
  let high = sorted.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sorted[middle]!.start <= start) low = middle + 1;
    else high = middle;
  }
  return low;
}
