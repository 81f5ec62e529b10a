/**
 * Clipping by the global norm (torch.nn.utils.clip_grad_norm_), folded into every optimiser's update: the factor of the
 * gradients, min(1, max_norm / (‖g‖ + 1e-6)). Entry 7 of `hyper` is max_norm, 0 for no clipping.
 */

/** Declares `clip`; of bindings `hyper` and `norm_squared`. */
export const CLIP_WGSL = `var clip = 1.0;
  if (hyper[7] > 0.0) { clip = min(1.0, hyper[7] / (sqrt(norm_squared[0]) + 1e-6)); }`;

export function clipFactor(maxNorm: number, normSquared: number): number {
  return maxNorm > 0 ? Math.min(1, maxNorm / (Math.sqrt(normSquared) + 1e-6)) : 1;
}
