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

/** Both maps, the signed one first: what the kernel looks up. */
export const CODES = Float32Array.of(...dynamicMap(true), ...dynamicMap(false));
