/**
 * The 256 numbers that a byte of an 8-bit optimiser state stands for (Dettmers et al. 2022, 8-bit optimizers via block-wise
 * quantization, §2.2), as bitsandbytes' `create_dynamic_map` makes them: seven decades, each of the upper ones with twice
 * the steps of the one below, and 0 and 1.
 */
export function dynamicMap(signed: boolean): Float32Array {
  const codes = [0, 1];
  for (let decade = 0; decade < 7; decade++) {
    const steps = 2 ** (decade + (signed ? 0 : 1));
    for (let step = 0; step < steps; step++) {
      const mean = 10 ** (decade - 6) * (0.1 + (0.9 * (step + 0.5)) / steps);
      codes.push(mean);
      if (signed) codes.push(-mean);
    }
  }
  return Float32Array.from(codes).sort();
}

/** Half-way between each code and the next, where rounding turns from one to the other; as many as codes. */
const middles = (codes: Float32Array): Float32Array =>
  codes.map((code, i) => Math.fround(code + (codes[i + 1] ?? code)) / 2);

const MAPS = [dynamicMap(true), dynamicMap(false)] as const;

/** What the kernel looks up: both maps, the signed one first, and the middles of each. */
export const CODES = Float32Array.of(...MAPS.flatMap((map) => [...map]), ...MAPS.flatMap((map) => [...middles(map)]));
