/** A line chart as SVG text: raw values faint, smoothed ones strong (de-biased exponential mean), the last point named. */

export interface Series {
  readonly name: string;
  readonly points: readonly (readonly [x: number, y: number])[];
  readonly colour: string;
  readonly smooth: boolean;
}

const WIDTH = 860;
const HEIGHT = 260;
const PLOT = { left: 52, right: 140, top: 28, bottom: 28 };
/** TensorBoard's default weight. */
const SMOOTHING = 0.6;

/** '' where there is nothing to draw. */
export function chart(title: string, series: readonly Series[]): string {
  const drawn = series.filter(({ points }) => points.length > 0);
  const all = drawn.flatMap(({ points }) => points);
  if (all.length < 2) return '';
  const xs = scale(
    all.map(([x]) => x),
    PLOT.left,
    WIDTH - PLOT.right,
  );
  const ys = scale(
    all.map(([, y]) => y),
    HEIGHT - PLOT.bottom,
    PLOT.top,
  );
  const path = (points: Series['points']): string =>
    points.map(([x, y], i) => `${i === 0 ? 'M' : 'L'}${xs.at(x).toFixed(1)} ${ys.at(y).toFixed(1)}`).join('');
  const grid = ys.ticks
    .map(
      (y) =>
        `<line class="grid" x1="${PLOT.left}" x2="${WIDTH - PLOT.right}" y1="${ys.at(y)}" y2="${ys.at(y)}"/>` +
        `<text x="${PLOT.left - 8}" y="${ys.at(y) + 4}" text-anchor="end">${tidy(y)}</text>`,
    )
    .join('');
  const steps = xs.ticks
    .map((x) => `<text x="${xs.at(x)}" y="${HEIGHT - 8}" text-anchor="middle">${tidy(x)}</text>`)
    .join('');
  const labels = spread(drawn.map(({ points, smooth }) => ys.at((smooth ? smoothed(points) : points).at(-1)![1])));
  const lines = drawn
    .map(({ name, points, colour, smooth }, i) => {
      const strong = smooth ? smoothed(points) : points;
      const [x, y] = strong.at(-1)!;
      const faint = smooth ? `<path class="faint" d="${path(points)}" fill="none" stroke="${colour}"/>` : '';
      return (
        `${faint}<path d="${path(strong)}" fill="none" stroke="${colour}" stroke-width="2"/>` +
        `<circle cx="${xs.at(x)}" cy="${ys.at(y)}" r="3.5" fill="${colour}"/>` +
        `<text x="${xs.at(x) + 10}" y="${labels[i]! + 4}">${name} ${y.toPrecision(3)}</text>`
      );
    })
    .join('');
  return (
    `<svg viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img" aria-label="${title} by optimiser step">` +
    `<text x="${PLOT.left}" y="16">${title}, by step</text>${grid}${steps}${lines}</svg>`
  );
}

function smoothed(points: Series['points']): Series['points'] {
  let sum = 0;
  return points.map(([x, y], i) => {
    sum = SMOOTHING * sum + (1 - SMOOTHING) * y;
    return [x, sum / (1 - SMOOTHING ** (i + 1))] as const;
  });
}

function scale(
  values: readonly number[],
  from: number,
  to: number,
): { at: (value: number) => number; ticks: number[] } {
  const low = values.reduce((a, b) => Math.min(a, b), Infinity);
  const high = values.reduce((a, b) => Math.max(a, b), -Infinity);
  const span = high - low || 1;
  const rough = span / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough)!;
  const ticks: number[] = [];
  for (let tick = Math.ceil(low / step) * step; tick <= high + 1e-9 * span; tick += step) ticks.push(tick);
  return { at: (value) => from + ((value - low) / span) * (to - from), ticks };
}

/** Labels at their lines' ends, none over another. */
function spread(places: readonly number[]): number[] {
  const order = places.map((_, i) => i).sort((a, b) => places[a]! - places[b]!);
  const result = [...places];
  for (let n = 1; n < order.length; n++) {
    result[order[n]!] = Math.max(result[order[n]!]!, result[order[n - 1]!]! + 16);
  }
  return result;
}

const tidy = (value: number): string => String(Number(value.toPrecision(6)));
