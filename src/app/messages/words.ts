/** Figures in words, the same for all languages but for their units: bytes, counts, shares. */

/** 31 MB, 4.2 MB, 1.3 GB: decimal, as disks and downloads are sold. */
export function bytes(n: number): string {
  const units = ['B', 'KB', 'MB', 'GB', 'TB'];
  let value = n;
  let unit = 0;
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1000;
    unit++;
  }
  return `${significant(value)} ${units[unit]}`;
}

/** Two figures below ten, whole above. */
export function significant(value: number): string {
  if (value === 0) return '0';
  if (Math.abs(value) >= 10) return String(Math.round(value));
  return String(Number(value.toPrecision(2)));
}

/** 0.45 M, 135 M, 1.7 B parameters. */
export function parameters(n: number): string {
  if (n >= 1e9) return `${significant(n / 1e9)} B`;
  if (n >= 1e5) return `${significant(n / 1e6)} M`;
  if (n >= 1e3) return `${significant(n / 1e3)} K`;
  return String(n);
}

export const percent = (share: number, digits = 0): string => `${(share * 100).toFixed(digits)}%`;

/** 12 345: a thin space where figures get long. */
export const count = (n: number): string => String(Math.round(n)).replace(/\B(?=(\d{3})+(?!\d))/g, '\u2009');

/** A loss or a KL: three places, enough for any curve's reading. */
export const figure = (n: number): string => {
  if (Math.abs(n) >= 100) return n.toFixed(0);
  return n !== 0 && Math.abs(n) < 1e-3 ? n.toExponential(1) : n.toPrecision(3);
};

/** Learning rates and other small settings as people write them: 0.0001 → 1e-4. */
export function setting(n: number): string {
  if (n !== 0 && Math.abs(n) < 0.001) return n.toExponential().replace('e-0', 'e-');
  return String(n);
}
