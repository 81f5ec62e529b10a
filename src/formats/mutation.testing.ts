/**
 * For the tests of every reader: damaged copies of good files, and the one thing that may come of reading them — a value
 * or an InputError, with no more memory than the file's size and 64 MB.
 */
import fc from 'fast-check';
import { InputError } from './input-error.ts';

type Bytes = Uint8Array<ArrayBuffer>;

const startlingIntegers = [
  0n,
  1n,
  0x7fn,
  0xffn,
  0xffffn,
  0x7fffffffn,
  0xffffffffn,
  1n << 53n,
  1n << 60n,
  (1n << 64n) - 1n,
];

/** A good file with one to three damages. Damage gathers near the start, where headers are. */
export function damaged(seeds: readonly Bytes[]): fc.Arbitrary<Bytes> {
  // Evenly over the file, or gathered at its start; fc.double alone would nearly always say 0.
  const place = fc
    .tuple(fc.noBias(fc.nat(2 ** 30 - 1)), fc.boolean())
    .map(([n, near]) => (n / 2 ** 30) ** (near ? 2 : 1));
  const damage: fc.Arbitrary<(bytes: Bytes) => Bytes> = fc.oneof(
    place.map((x) => (bytes: Bytes) => bytes.slice(0, Math.floor(x * bytes.length))),
    fc.tuple(place, fc.nat(7)).map(
      ([x, bit]) =>
        (bytes: Bytes) =>
          change(bytes, x, 1, (part) => (part[0]! ^= 1 << bit)),
    ),
    fc.tuple(place, fc.nat(255)).map(
      ([x, value]) =>
        (bytes: Bytes) =>
          change(bytes, x, 1, (part) => (part[0] = value)),
    ),
    fc.tuple(place, fc.constantFrom(...startlingIntegers), fc.constantFrom(2, 4, 8)).map(
      ([x, value, width]) =>
        (bytes: Bytes) =>
          change(bytes, x, width, (part) => {
            for (let i = 0; i < part.length; i++) part[i] = Number((value >> BigInt(8 * i)) & 0xffn);
          }),
    ),
    fc.tuple(place, fc.uint8Array({ minLength: 1, maxLength: 12 })).map(([x, extra]) => (bytes: Bytes) => {
      const at = Math.floor(x * bytes.length);
      return splice(bytes, at, 0, extra);
    }),
    fc.tuple(place, fc.integer({ min: 1, max: 40 })).map(([x, length]) => (bytes: Bytes) => {
      const at = Math.floor(x * bytes.length);
      return splice(bytes, at, length, new Uint8Array(0));
    }),
    // A run of digits in a text header becomes another number.
    fc
      .tuple(place, fc.constantFrom('0', '9'.repeat(15), '-1', '1e9', '1152921504606846976', '""', '[]', 'null'))
      .map(([x, text]) => (bytes: Bytes) => {
        const from = Math.floor(x * bytes.length);
        const at = bytes.findIndex((byte, i) => i >= from && byte >= 0x30 && byte <= 0x39);
        if (at < 0) return bytes;
        let end = at;
        while (end < bytes.length && bytes[end]! >= 0x30 && bytes[end]! <= 0x39) end++;
        return splice(bytes, at, end - at, new TextEncoder().encode(text));
      }),
  );
  return fc
    .tuple(fc.constantFrom(...seeds), fc.array(damage, { minLength: 1, maxLength: 3 }))
    .map(([seed, damages]) => damages.reduce((bytes, apply) => apply(bytes), seed));
}

function splice(bytes: Bytes, at: number, removed: number, added: Uint8Array): Bytes {
  const rest = bytes.subarray(at + removed);
  const out = new Uint8Array(at + added.length + rest.length);
  out.set(bytes.subarray(0, at));
  out.set(added, at);
  out.set(rest, at + added.length);
  return out;
}

function change(bytes: Bytes, place: number, width: number, edit: (part: Bytes) => void): Bytes {
  const copy = bytes.slice();
  const at = Math.min(Math.floor(place * copy.length), Math.max(copy.length - 1, 0));
  if (copy.length > 0) edit(copy.subarray(at, at + width));
  return copy;
}

/** Runs a reader; true where it gave a value. Anything but a value or an InputError is thrown on. */
export async function readsOrRefuses(fileBytes: number, read: () => Promise<unknown>): Promise<boolean> {
  const before = process.memoryUsage().arrayBuffers;
  let gave = true;
  try {
    await read();
  } catch (error) {
    if (!(error instanceof InputError)) throw error;
    if (!error.message.includes(': ')) throw new Error(`not file: place: what: allowed, but "${error.message}"`);
    gave = false;
  }
  const grown = process.memoryUsage().arrayBuffers - before;
  if (grown > fileBytes + 64e6) throw new Error(`reading ${fileBytes} bytes took ${grown} bytes of memory`);
  return gave;
}

/** `runs` damaged files through a reader; the number that were still readable, so that a test can see both outcomes. */
export async function readDamaged(seeds: readonly Bytes[], runs: number, read: (bytes: Bytes) => Promise<unknown>) {
  const outcomes = { read: 0, refused: 0 };
  await fc.assert(
    fc.asyncProperty(damaged(seeds), async (bytes) => {
      outcomes[(await readsOrRefuses(bytes.length, () => read(bytes))) ? 'read' : 'refused']++;
    }),
    { numRuns: runs, seed: 20261124 },
  );
  return outcomes;
}
