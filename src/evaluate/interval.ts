/** A proportion with its 95% interval (Wilson 1927): good for few rows, and for none or all right. */
export interface Proportion {
  readonly value: number;
  readonly low: number;
  readonly high: number;
  readonly rows: number;
}

/** The normal distribution's 97.5% point. */
const Z = 1.959963984540054;

export function wilson(right: number, rows: number): Proportion {
  if (rows === 0) return { value: 0, low: 0, high: 1, rows };
  const p = right / rows;
  const z2 = Z * Z;
  const middle = p + z2 / (2 * rows);
  const spread = Z * Math.sqrt((p * (1 - p) + z2 / (4 * rows)) / rows);
  const scale = 1 + z2 / rows;
  return {
    value: p,
    low: right === 0 ? 0 : Math.max(0, (middle - spread) / scale),
    high: right === rows ? 1 : Math.min(1, (middle + spread) / scale),
    rows,
  };
}
