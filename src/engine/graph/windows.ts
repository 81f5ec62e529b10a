/**
 * Tensors larger than a device binds. WebGPU promises 128 MiB a binding and 256 MiB a buffer; an embedding of
 * 151,936 × 896 is 545 MB. Such a tensor lies in windows: runs of whole rows (leading axes as one), each a buffer of its
 * own. Kernels that know of it go window by window; what does not is refused by the plan, by name.
 */
import { sizeOf, wordsOf, type Operand, type TensorType } from './types.ts';

export interface RowWindow {
  readonly start: number;
  readonly rows: number;
}

/** A window of an operand, as an operand to bind. */
export interface OperandWindow extends RowWindow {
  readonly operand: Operand;
}

export interface SizeLimits {
  readonly maxStorageBufferBindingSize: number;
  readonly maxBufferSize: number;
}

/**
 * Windows start at multiples of so many rows. Whatever the width, that is a multiple of 256 bytes, where a binding may
 * start, and of a packed dtype's block; and so it is for the columns of anything that has a column a row (logits).
 */
const STEP = 64;

/** So many rows are a multiple of 256 numbers as well, the block of an 8-bit optimiser: windows start there where they can. */
const wideStep = (width: number): number => STEP * (width % 4 === 0 ? 1 : width % 2 === 0 ? 2 : 4);

/** How a tensor is held: all rows in one, or as few windows of about the same size as there can be. */
export function rowWindows(type: TensorType, limits: SizeLimits): RowWindow[] {
  const { rows, width } = matrixOf(type);
  const most = Math.min(limits.maxStorageBufferBindingSize, limits.maxBufferSize);
  const bytes = (count: number): number => 4 * wordsOf(type.dtype, count * width);
  const step = [wideStep(width), STEP].find((count) => bytes(count) <= most);
  // rows of which no binding holds 64 stay whole: the plan says what would have to bind them
  if (bytes(rows) <= most || step === undefined) return [{ start: 0, rows }];
  const steps = Math.floor(most / bytes(step));
  const all = Math.ceil(rows / step);
  const each = step * Math.ceil(all / Math.ceil(all / steps));
  const windows: RowWindow[] = [];
  for (let start = 0; start < rows; start += each) windows.push({ start, rows: Math.min(each, rows - start) });
  return windows;
}

/** A tensor as rows of its last axis. */
export function matrixOf({ shape }: Pick<TensorType, 'shape'>): { rows: number; width: number } {
  const width = shape.length < 2 ? 1 : sizeOf(shape.slice(-1));
  return { rows: shape.length < 2 ? sizeOf(shape) : sizeOf(shape.slice(0, -1)), width };
}

export function windowsOf(operand: Operand): readonly OperandWindow[] {
  return operand.windows ?? [{ start: 0, rows: matrixOf(operand).rows, operand }];
}

/**
 * Where a row lies: what to bind, and how many elements into it.
 * @param width elements of a row, where `row` doesn't count the operand's own
 */
export function locate(
  operand: Operand,
  row: number,
  width = matrixOf(operand).width,
): { operand: Operand; offset: number } {
  const own = matrixOf(operand).width;
  const window = windowsOf(operand).findLast(({ start }) => start * own <= row * width)!;
  return { operand: window.operand, offset: row * width - window.start * own };
}

/** The rows of an operand that something goes over. */
export interface RowRange {
  readonly operand: Operand;
  readonly first: number;
  /** Elements of a row, where these aren't the operand's own: windows must begin with such a row too. */
  readonly width?: number;
}

/**
 * `count` steps that walk along rows of several operands at once, cut wherever one of them passes into another window.
 * Starts count from the first step.
 */
export function commonWindows(count: number, ranges: readonly RowRange[]): RowWindow[] {
  const starts = new Set([0]);
  for (const { operand, first, width } of ranges) {
    const own = matrixOf(operand).width;
    for (const window of windowsOf(operand)) {
      const start = width === undefined ? window.start : (window.start * own) / width;
      if (!Number.isInteger(start))
        throw new RangeError(`windows of [${operand.shape}] do not begin at multiples of ${width}`);
      if (start > first && start < first + count) starts.add(start - first);
    }
  }
  const sorted = [...starts].sort((a, b) => a - b);
  return sorted.map((start, i) => ({ start, rows: (sorted[i + 1] ?? count) - start }));
}
