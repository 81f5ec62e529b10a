/** How fast a device trains, before it has: what the page foretells of a run, and the bench holds to what a step took. */

/**
 * A share of a matmul's rate, where that was measured on this device (docs/kernels.md: 0.82 to 0.95 of a step's own matmuls,
 * which are slower than the one that is measured); what SwiftShader on two cores and a laptop's integrated GPU were seen to do,
 * where nothing is known yet.
 */
const SHARE = 0.7;
const RATE = { software: 4e9, hardware: 5e11 };

/** Float operations a second. @param device.flopsPerSecond of a matmul, by the self-test; undefined before it */
export function trainingRate(device: { readonly software: boolean; readonly flopsPerSecond?: number }): number {
  if (device.flopsPerSecond) return SHARE * device.flopsPerSecond;
  return RATE[device.software ? 'software' : 'hardware'];
}
