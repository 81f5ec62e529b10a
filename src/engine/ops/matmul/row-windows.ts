/**
 * Ranges of rows of A[M,K] and out[M,N] that a device can bind: whole logits pass its limit (128 MiB on many) while their
 * rows do not. All rows at once where they fit. A row's sum does not know of its range.
 */
export interface RowWindow {
  readonly start: number;
  readonly rows: number;
}

/** A window must start at a multiple of 256 bytes. */
const ALIGN_ELEMENTS = 64;

/** @throws RangeError where not even the fewest rows whose windows are aligned fit */
export function rowWindows(M: number, N: number, K: number, maxBindingBytes: number): RowWindow[] {
  const fits = Math.floor(maxBindingBytes / (4 * Math.max(N, K)));
  if (M <= fits) return [{ start: 0, rows: M }];
  const step = ALIGN_ELEMENTS / commonPower(ALIGN_ELEMENTS, N, K);
  const size = Math.floor(fits / step) * step;
  if (size === 0) {
    throw new RangeError(`matmul: ${step} rows of ${Math.max(N, K)} do not fit a binding of ${maxBindingBytes} bytes`);
  }
  const windows: RowWindow[] = [];
  for (let start = 0; start < M; start += size) windows.push({ start, rows: Math.min(size, M - start) });
  return windows;
}

/** The largest power of two up to `most` that divides both. */
function commonPower(most: number, a: number, b: number): number {
  let power = most;
  while (a % power !== 0 || b % power !== 0) power /= 2;
  return power;
}
