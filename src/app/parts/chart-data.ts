/**
 * What stands between metrics and a drawn curve: smoothing, joining series of different steps, CSV. Pure.
 * Smoothing is TensorBoard's: an exponential moving average, de-biased, so that the first point is itself.
 */
import type { MetricsLine } from '../../job/protocol.ts';

export interface Point {
  readonly x: number;
  readonly y: number;
  /** Of an interval, where there is one. */
  readonly low?: number;
  readonly high?: number;
}

export interface Series {
  readonly label: string;
  readonly points: readonly Point[];
  readonly role: 'student' | 'teacher' | 'ink' | 'other';
  /** Raw line faint, smoothed line strong. Evaluations are few and are never smoothed. */
  readonly smoothed?: boolean;
  /** Points are marked, as where they are few. */
  readonly marked?: boolean;
}

/** @param weight 0 (as it is) to below 1 */
export function smooth(values: readonly number[], weight: number): number[] {
  let average = 0;
  let bias = 1;
  return values.map((value) => {
    average = average * weight + (1 - weight) * value;
    bias *= weight;
    return average / (1 - bias);
  });
}

/**
 * uPlot's shape: all steps once, in order, and for each series its value there or null.
 * @param series each in the order of its steps. Merged in one pass, as it is done anew for every point of a long run.
 */
export function align(series: readonly (readonly Point[])[]): [number[], ...(number | null)[][]] {
  const steps: number[] = [];
  const columns = series.map((): (number | null)[] => []);
  const heads = series.map(() => 0);
  for (;;) {
    let step = Infinity;
    series.forEach((points, i) => (step = Math.min(step, points[heads[i]!]?.x ?? Infinity)));
    if (step === Infinity) return [steps, ...columns];
    steps.push(step);
    series.forEach((points, i) => {
      let value: number | null = null;
      while (points[heads[i]!]?.x === step) value = points[heads[i]!++]!.y;
      columns[i]!.push(value);
    });
  }
}

type Name = Exclude<keyof MetricsLine, 'step' | 'epoch'>;

export const pointsOf = (metrics: readonly MetricsLine[], name: Name): Point[] =>
  metrics.flatMap((line) => (typeof line[name] === 'number' ? [{ x: line.step, y: line[name] }] : []));

export function toCsv(series: readonly Series[]): string {
  const [steps, ...columns] = align(series.map(({ points }) => points));
  const cell = (text: string) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const head = ['step', ...series.map(({ label }) => cell(label))].join(',');
  const lines = steps.map((step, i) => [step, ...columns.map((column) => column[i] ?? '')].join(','));
  return `${[head, ...lines].join('\n')}\n`;
}

/** Few round labels: at most `most` ticks at 1, 2 or 5 times a power of ten. */
export function roundStep(range: number, most: number): number {
  if (!(range > 0)) return 1;
  const rough = range / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].map((times) => times * power).find((step) => step >= rough)!;
}
