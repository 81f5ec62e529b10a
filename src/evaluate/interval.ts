/** Proportions with their 95% interval (Wilson 1927): right at 0 and 1 and for a few dozen rows, where ± √ is not. */
export interface Proportion {
  readonly value: number;
  readonly low: number;
  readonly high: number;
  readonly rows: number;
}

const Z = 1.959964;

export function proportion(right: number, rows: number): Proportion {
  if (rows === 0) return { value: 0, low: 0, high: 1, rows };
  const p = right / rows;
  const centre = (p + Z ** 2 / (2 * rows)) / (1 + Z ** 2 / rows);
  const half = (Z / (1 + Z ** 2 / rows)) * Math.sqrt((p * (1 - p)) / rows + Z ** 2 / (4 * rows ** 2));
  return {
    value: p,
    low: Math.max(0, Math.min(p, centre - half)),
    high: Math.min(1, Math.max(p, centre + half)),
    rows,
  };
}
